"""From a configuration to the learner of its method: the one factory."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from epvf.config.schema import Config, replace
from epvf.errors import unknown
from epvf.methods.agents.settings import AGENTS
from epvf.methods.base import PolicySearch
from epvf.methods.epvf import Learner
from epvf.methods.evolution import STRATEGIES, EvolutionLearner, make_strategy
from epvf.methods.psvf import PSVFLearner
from epvf.policies.mlp import Policy
from epvf.tasks.base import TaskSpec
from epvf.value.factory import make_value

Delta: TypeAlias = dict[str, Any]

REPLAYED = 4
"""Populations that `ridge-replay` keeps where the buffer is not already larger than one."""


def make_policy(config: Config, spec: TaskSpec) -> Policy:
    """The architecture that the configuration asks for on a task."""
    sizes = (spec.observation_size, *config.policy.hidden_sizes, spec.action_size)
    return Policy(sizes, config.policy.activation, config.policy.output)


def make_learner(config: Config, spec: TaskSpec) -> Any:
    """The `PolicySearch` that the configuration asks for; EPVF and its controls are a `Learner`.

    Raises:
        UserError: if the parts do not fit each other or the task, or an extra is not installed.
    """
    if config.method not in METHODS:
        raise unknown("method", config.method, METHODS)
    return METHODS[config.method](settle(config), spec)


def settle(config: Config) -> Config:
    """The configuration with what its method prescribes; settling twice changes nothing more."""
    prescribed = _PRESCRIBED.get(config.method)
    return config if prescribed is None else replace(config, prescribed(config))


def reads(method: str, field: str) -> bool:
    """Whether a method may read a dotted field; those of other methods' own groups it does not."""
    readers = _OWN_GROUPS.get(field.partition(".")[0])
    return readers is None or method in readers


def _epvf(config: Config, spec: TaskSpec) -> PolicySearch:
    policy = make_policy(config, spec)
    return Learner(
        **_common(config, spec),
        value=make_value(
            policy,
            config.value,
            config.representation,
            config.perturbation,
            spec.deterministic_reset,
        ),
        perturbation=config.perturbation,
        targets=config.target,
        value_update=config.value_update,
        policy_update=config.policy_update,
        num_centres=config.policy.num_centres,
        buffer_size=_buffer_capacity(config),
        draw_again=config.buffer.store == "seeds",
    )


def _psvf(config: Config, spec: TaskSpec) -> PolicySearch:
    return PSVFLearner(
        **_common(config, spec),
        config=config.psvf,
        perturbation=config.perturbation,
        policy_update=config.policy_update,
        fixed_length=None if spec.terminates else spec.episode_length,
    )


def _evolution(name: str, config: Config, spec: TaskSpec) -> PolicySearch:
    common = _common(config, spec)
    draw = partial(common["policy"].init, init=config.policy.init, scale=config.policy.init_scale)
    size = common["policy"].num_parameters
    strategy = make_strategy(name, config.evolution, config.num_envs, size, config.iterations, draw)
    return EvolutionLearner(**common, strategy=strategy)


def _common(config: Config, spec: TaskSpec) -> dict[str, Any]:
    """What every `PolicySearch` has."""
    return {
        "policy": make_policy(config, spec),
        "num_envs": config.num_envs,
        "iterations": config.schedule_iterations or config.iterations,
        "init": config.policy.init,
        "init_scale": config.policy.init_scale,
        "eval_episodes": config.eval.episodes,
        "eval_jitter": config.eval.jitter if spec.deterministic_reset else 0.0,
    }


def _buffer_capacity(config: Config) -> int:
    """The buffer's size, or what the whole run can ever put into it if that is less."""
    ever = config.num_envs * config.iterations
    needed = max(config.value_update.batch_size, min(config.buffer.size, ever))
    # whole populations, where these are what is stored; the buffer's size is a multiple of them
    whole = -(-needed // config.num_envs) * config.num_envs
    return whole if config.buffer.store == "seeds" else needed


def _one_line(config: Config, fit: str, buffer_size: int) -> Delta:
    """A linear V on offsets in units of the noise, fitted at once, and one Adam step along it.

    Population, weight clip and learning-rate schedule stay those of the configuration.
    """
    return {
        "policy.num_centres": 1,
        "representation.name": "raw",
        "value.condition": "policy",
        "value.hidden_sizes": [],
        "value.inputs": "standardised",
        "value.input_scale": 1.0,
        "value.zero_init": True,
        "target.transform": "centred_ranks",
        "buffer.size": buffer_size,
        "value_update.batch_size": buffer_size,
        "value_update.fit": fit,
        "policy_update.steps": 1,
        "policy_update.optimizer": "adam",
        "policy_update.gradient_at": "theta",
    }


def _replay_size(config: Config) -> int:
    size, population = config.buffer.size, config.num_envs
    return size if size > population else REPLAYED * population


_PRESCRIBED: dict[str, Callable[[Config], Delta]] = {
    "matched-openes": lambda config: _one_line(config, "es", config.num_envs),
    "ridge": lambda config: _one_line(config, "ridge", config.num_envs),
    "ridge-replay": lambda config: _one_line(config, "ridge", _replay_size(config)),
}

_OWN_GROUPS: dict[str, tuple[str, ...]] = {
    "psvf": ("psvf",),
    "evolution": tuple(STRATEGIES),
    **{name: (name,) for name in AGENTS},
}

METHODS: dict[str, Callable[[Config, TaskSpec], PolicySearch]] = {
    "epvf": _epvf,
    "psvf": _psvf,
    "matched-openes": _epvf,
    "ridge": _epvf,
    "ridge-replay": _epvf,
    **{name: partial(_evolution, name) for name in STRATEGIES},
}
