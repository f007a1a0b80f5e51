"""A run's newest checkpoint with everything that its state belongs to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from epvf.analysis.neighbourhood import Neighbourhood, neighbourhood, no_value_function
from epvf.errors import UserError
from epvf.methods.controls import ControlSettings
from epvf.methods.epvf import EPVFSettings
from epvf.methods.psvf import PSVFSettings
from epvf.methods.registry import METHODS
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.folder import read_config
from epvf.training.loop import init_state
from epvf.training.prepare import Setup, prepare
from epvf.training.state import TrainState


class Restored(NamedTuple):
    """A run as it was at its newest checkpoint."""

    setup: Setup
    state: TrainState
    look: Callable[[Any], Neighbourhood]

    def around(self, seed: int | None = None) -> Neighbourhood:
        """θ of a seed, and what V says of its surroundings; see `seed`."""
        return self.look(self.seed(seed))

    def seed(self, number: int | None = None) -> Any:
        """The learner's state of one seed; None: of the first.

        Raises:
            UserError: if the run has no such seed.
        """
        config = self.setup.config
        seeds = range(config.seed, config.seed + config.num_seeds)
        number = seeds[0] if number is None else number
        if number not in seeds:
            listed = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
            raise UserError(f"the run has no seed {number}; it has {listed}")
        index = seeds.index(number)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), self.state.learner)


def restore(run: Path) -> Restored:
    """Reads a run's newest checkpoint; the run's files are only read.

    Raises:
        UserError: if the folder is no run, has no checkpoint, or its method has no value
            function of policies.
    """
    asked = read_config(run)
    if METHODS[asked.method.name].build is None:
        raise no_value_function(asked.method.name)
    setup = prepare(asked)
    look = neighbourhood(setup)
    return Restored(setup, _newest(run, setup), look)


def has_value(run: Path) -> bool:
    """Whether a run's method has a value function of policies, and the run a checkpoint of it.

    Raises:
        UserError: if the folder is no run.
    """
    settings = METHODS[read_config(run).method.name].settings
    looks = issubclass(settings, EPVFSettings | PSVFSettings | ControlSettings)
    return looks and any((run / "checkpoints").glob("[0-9]*"))


def _newest(run: Path, setup: Setup) -> TrainState:
    checkpoints = Checkpoints(run / "checkpoints", setup.config.checkpoint.keep, read_only=True)
    try:
        state = checkpoints.restore(jax.eval_shape(lambda: init_state(setup).learner))
    finally:
        checkpoints.close()
    if state is None:
        raise UserError(f"{run} has no checkpoint yet")
    return state
