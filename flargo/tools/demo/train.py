"""The demo's training script, which each site runs: site-N adds N to each weight, and counts N steps for it.

So sites differ, and what a federated average of them must be is known.
"""

import nvflare.client as flare


def main() -> None:
    """Train until the server says that it is enough."""
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
