"""The demo's training script, which runs at each site: site-N adds N to each weight, and reports N steps.

So each site's result is different, and the federated average of all of them can be calculated.
"""

import argparse
import time

import nvflare.client as flare

STEPS = 12


def main() -> None:
    """Train until the server ends the job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0, help="the time that a round takes")
    seconds = parser.parse_args().seconds
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if seconds:
            pretend_to_compute(model.current_round + 1, seconds)
        params = {key: value + number for key, value in model.params.items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": number}))


def pretend_to_compute(training_round: int, seconds: float) -> None:
    """Log each step of a round, so that `flargo demo --drain` knows when to evict the pod."""
    for step in range(1, STEPS + 1):
        print(f"training: round {training_round}, step {step} of {STEPS}")
        time.sleep(seconds / STEPS)


if __name__ == "__main__":
    main()
