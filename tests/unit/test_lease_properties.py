"""Two or three parents of a site, with faults of every kind: never two holders, and one soon after the last fault."""

import random
from functools import partial

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flargo.control.lease import HOLD_SECONDS, TAKEOVER_SECONDS
from tests.harness.lease_parents import Fault, FaultKind, Simulation

SECONDS = 150.0
"""Seconds in which the faults begin and parents die."""
REQUEST_SECONDS = 0.5
"""The longest duration of a request without a fault, the delay of its sending included."""
SLOWEST_CLOCK = 0.94
MAX_REFUSED_SECONDS = 8.0
"""Longer refusals are taken for a missing right."""
SEEDS = st.integers(0, 2**32)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A smaller seed is no simpler story."""


def simulate(seed: int, *, has_faults: bool = True) -> Simulation:
    """Return a simulation with two or three lives of parents, of which the last ones outlive the faults."""
    simulation = Simulation(seed)
    dice = simulation.dice
    for index in range(dice.choice([2, 3, 3, 4])):
        starts_at = 0.0 if index == 0 else dice.uniform(0.0, SECONDS)
        is_survivor = index > 0 and dice.random() < 0.4
        dies_at = 1e9 if is_survivor else min(SECONDS, starts_at + dice.uniform(1.0, 60.0))
        simulation.add_parent(starts_at, dies_at, pauses(dice, starts_at), releases=dice.random() < 0.4)
    simulation.add_parent(dice.uniform(0.0, SECONDS), 1e9, [])
    if has_faults:
        for fault in faults(dice, [parent.identity for parent in simulation.parents]):
            simulation.add_fault(fault)
    return simulation


def pauses(dice: random.Random, starts_at: float) -> list[tuple[float, float]]:
    """Return a time for which a parent's process is stopped, or none."""
    start = starts_at + dice.uniform(0.0, 40.0)
    return [(start, start + dice.uniform(0.1, 40.0))] if dice.random() < 0.3 else []


def faults(dice: random.Random, identities: list[str]) -> list[Fault]:
    """Return some faults, which may overlap; the first of two counts."""
    kinds = [kind for kind in FaultKind if kind is not FaultKind.FORBIDDEN]
    drawn = []
    for _ in range(dice.randint(0, 8)):
        start = dice.uniform(0.0, SECONDS)
        who = dice.choice(["", "", *identities])
        drawn.append(Fault(start, start + dice.choice([0.1, 1.0, 5.0, 30.0]), dice.choice(kinds), who))
    start = dice.uniform(0.0, SECONDS)
    drawn.append(Fault(start, start + dice.uniform(0.0, MAX_REFUSED_SECONDS), FaultKind.FORBIDDEN))
    return drawn


@given(SEEDS)
@settings(max_examples=150, deadline=None, phases=PHASES)
def test_no_two_parents_believe_at_once(seed: int) -> None:
    """Clocks are wrong by hours and six percent, requests late or lost, and processes stopped for a while."""
    simulation = simulate(seed)
    simulation.run(4 * SECONDS)
    assert not simulation.overlaps, "\n".join(simulation.story)


@given(SEEDS)
@settings(max_examples=150, deadline=None, phases=PHASES)
def test_one_parent_holds_after_the_last_fault(seed: int) -> None:
    simulation = simulate(seed)
    simulation.run(SECONDS)
    while simulation.now < simulation.trouble_ends_at:
        simulation.run(simulation.trouble_ends_at)
    bound = simulation.trouble_ends_at + TAKEOVER_SECONDS / SLOWEST_CLOCK + 3 * REQUEST_SECONDS
    simulation.run(bound)
    (holder,) = simulation.holders() or ("nobody",)
    assert holder != "nobody", "\n".join(simulation.story)
    for _ in range(60):
        simulation.run(simulation.now + 1.0)
        assert simulation.holders() == [holder], "\n".join(simulation.story)


@given(SEEDS)
@settings(max_examples=100, deadline=None, phases=PHASES)
def test_an_edited_lease_is_noticed_soon(seed: int) -> None:
    """Somebody who is no parent deletes or edits the Lease: two parents believe for HOLD_SECONDS at most."""
    simulation = simulate(seed, has_faults=seed % 2 == 0)
    dice = simulation.dice
    for _ in range(dice.randint(1, 6)):
        holder = dice.choice(["", "somebody", *(parent.identity for parent in simulation.parents)])
        edit = simulation.delete_lease if dice.random() < 0.5 else partial(simulation.edit_lease, holder)
        simulation.at(dice.uniform(0.0, SECONDS), edit)
    simulation.run(4 * SECONDS)
    longest = max((overlap.seconds for overlap in simulation.overlaps), default=0.0)
    assert longest <= HOLD_SECONDS / SLOWEST_CLOCK, "\n".join(simulation.story)
