"""From the method of a configuration to what trains it."""

from types import ModuleType

from epvf import agent_recorder, recorder, train
from epvf.agents import AGENTS
from epvf.config import Config
from epvf.display import Display
from epvf.recorder import Outcome
from epvf.runs import Run
from epvf.tasks.base import SteppableTask


def fit(config: Config) -> tuple[Config, SteppableTask]:
    """The task of a configuration, and the configuration with the engine that it came to.

    Raises:
        UserError: if method, task and configuration do not fit.
    """
    return agent_recorder.fit(config) if config.method in AGENTS else train.fit(config)


def record(run: Run, task: SteppableTask, display: Display) -> Outcome:
    """Trains a run to its end or to a signal; see `epvf.recorder.record`."""
    home: ModuleType = agent_recorder if run.config.method in AGENTS else recorder
    return home.record(run, task, display)
