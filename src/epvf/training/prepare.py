"""From the method of a configuration to what trains it."""

from types import ModuleType

from epvf.config.schema import Config
from epvf.methods.agents.settings import AGENTS
from epvf.runs import agent_recorder, recorder
from epvf.runs.display import Display
from epvf.runs.folder import Run
from epvf.runs.recorder import Outcome
from epvf.tasks.base import SteppableTask
from epvf.training import loop as train


def fit(config: Config) -> tuple[Config, SteppableTask]:
    """The task of a configuration, and the configuration with the engine that it came to.

    Raises:
        UserError: if method, task and configuration do not fit.
    """
    return agent_recorder.fit(config) if config.method in AGENTS else train.fit(config)


def record(run: Run, task: SteppableTask, display: Display) -> Outcome:
    """Trains a run to its end or to a signal; see `epvf.runs.recorder.record`."""
    home: ModuleType = agent_recorder if run.config.method in AGENTS else recorder
    return home.record(run, task, display)
