"""The demo's training script, which runs at each site: site-N adds N to each weight, and reports N steps.

So each site's result is different, and the federated average of all of them can be calculated.
"""

import nvflare.client as flare


def main() -> None:
    """Train until the server ends the job."""
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        params = {key: value + number for key, value in model.params.items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": number}))


if __name__ == "__main__":
    main()
