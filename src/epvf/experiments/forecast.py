"""How long what is left of an experiment takes, told before it begins."""

from collections.abc import Callable, Sequence

from epvf.config.schema import Config, replace
from epvf.experiments.paper import Arm
from epvf.training import pace
from epvf.training.pace import Expected
from epvf.training.prepare import prepare


def forecast(arms: Sequence[Arm], announce: Callable[[str], None]) -> Expected:
    """Seconds of runs, one after the other on this machine, by the first iterations of each.

    Runs that differ in nothing but their first seed are timed once. Those that were begun count as
    if they were not.
    """
    times: dict[Config, Expected] = {}
    for arm in arms:
        setting = replace(arm.config, {"seed": 0})
        if setting not in times:
            announce(f"timing the first iterations of {arm.name} ...")
            setup = prepare(setting)
            times[setting] = pace.expect(setup, pace.measure(setup))
    each = [times[replace(arm.config, {"seed": 0})] for arm in arms]
    return Expected(sum(run.short for run in each), sum(run.long for run in each))
