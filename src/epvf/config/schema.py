"""The whole configuration of a run: frozen, typed, checked, the same in JSON, YAML and Python."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from epvf.errors import UserError, unknown
from epvf.files import one_line
from epvf.methods.agents.settings import AGENTS, PPOConfig, SACConfig
from epvf.methods.epvf import PolicyUpdateConfig, ValueUpdateConfig
from epvf.methods.evolution import EvolutionConfig
from epvf.methods.psvf import PSVFConfig
from epvf.policies.mlp import Activation, Init, Output
from epvf.policies.noise import PerturbationConfig
from epvf.value.representations import RepresentationConfig
from epvf.value.targets import TargetConfig
from epvf.value.v_theta import ValueConfig

Store: TypeAlias = Literal["weights", "seeds"]
Backend: TypeAlias = Literal["auto", "jax", "native", "mjx", "warp", "lanes"]
Method: TypeAlias = Literal[
    "epvf",
    "psvf",
    "matched-openes",
    "ridge",
    "ridge-replay",
    "openes",
    "pgpe",
    "ars",
    "cmaes",
    "sepcmaes",
    "randomsearch",
    "ppo",
    "sac",
]
METHODS: tuple[Method, ...] = typing.get_args(Method)


@dataclass(frozen=True)
class TaskConfig:
    """What is to be solved.

    Attributes:
        name: of the task.
        backend: the engine; `auto` picks what suits the machine.
        episode_length: longest episode in env steps; None: the task's own.
        num_threads: CPU threads of the native engine; None: all.
        num_slots: policies that a JAX engine runs side by side while others wait for their turn;
            None: what suits the device.
    """

    name: str = "cartpole"
    backend: Backend = "auto"
    episode_length: int | None = None
    num_threads: int | None = None
    num_slots: int | None = None


@dataclass(frozen=True)
class PolicyConfig:
    """The policies' architecture and start.

    Attributes:
        hidden_sizes: widths of the MLP; empty for a linear policy.
        activation: after every hidden layer.
        output: `argmax` for discrete tasks, `clip` or `tanh` for continuous ones.
        init: distribution of the initial weights.
        init_scale: multiplies the initial weights.
        num_centres: C, policies improved side by side.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    output: Output = "clip"
    init: Init = "lecun_normal"
    init_scale: float = 1.0
    num_centres: int = 1


@dataclass(frozen=True)
class BufferConfig:
    """The replay buffer.

    Attributes:
        size: newest pairs (θ, return) that are kept.
        store: what is kept of a θ. `weights`: all of them. `seeds`: its population's centre and
            key, from which it is drawn again when it is read. That takes next to no memory and
            time of its own: for policies and populations so large that storing them is the cost.
    """

    size: int = 4096
    store: Store = "weights"


@dataclass(frozen=True)
class EvalConfig:
    """How the unperturbed policy is measured; these rollouts are not counted as env steps.

    Attributes:
        interval: every so many iterations.
        episodes: rollouts per measurement.
        jitter: relative jitter of the weights where the task resets deterministically.
    """

    interval: int = 1
    episodes: int = 64
    jitter: float = 1e-3


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved; the end, Ctrl-C and SIGTERM always save.

    Attributes:
        every_iterations: after so many iterations; None: not by count.
        every_minutes: after so many minutes; None: not by time.
        keep: newest checkpoints that stay on disk.
    """

    every_iterations: int | None = None
    every_minutes: float | None = 5.0
    keep: int = 2


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from.

    Attributes:
        method: what turns returns into better policies. `epvf`: the value function V(θ). `psvf`:
            V(s, θ) on every step of the rollouts; it reads neither buffer nor target nor value.
            `matched-openes`, `ridge`, `ridge-replay`: its controls, a linear V in closed form on
            EPVF's own population. `ppo` and `sac` are Brax's and read only task, policy's sizes and
            activation, eval, their own part and the numbers below. The others are evolution
            strategies.
        task, policy, perturbation, buffer, representation, value, target, value_update,
            policy_update, psvf, evolution, eval, checkpoint, ppo, sac: the parts, each described in
            its own class.
        num_envs: N, policies (of ppo and sac: environments of the one policy) per iteration.
        iterations: of Algorithm 1, or of the method.
        env_steps: the run ends after the first iteration that reaches so many; None: never.
        schedule_iterations: over which learning rates and deviations fall to their final values,
            where they stay; None: over all.
        seed: of everything random.
        num_seeds: seeds `seed ... seed + num_seeds - 1` trained side by side in one program.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    value_update: ValueUpdateConfig = field(default_factory=ValueUpdateConfig)
    policy_update: PolicyUpdateConfig = field(default_factory=PolicyUpdateConfig)
    psvf: PSVFConfig = field(default_factory=PSVFConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    method: Method = "epvf"
    num_envs: int = 4096
    iterations: int = 488
    env_steps: int | None = None
    schedule_iterations: int | None = None
    seed: int = 0
    num_seeds: int = 1

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_contradictions(self)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], base: Config | None = None) -> Config:
    """A configuration from nested plain values; fields left out are those of `base`.

    Raises:
        UserError: for an unknown field, a value of the wrong type, or a contradiction.
    """
    return _build(Config, values, base if base is not None else Config(), "")


def load(path: Path, base: Config | None = None) -> Config:
    """Reads a `.json` or `.yaml` file; see `from_dict`."""
    return from_dict(load_fields(path), base)


def load_fields(path: Path) -> dict[str, Any]:
    """The fields that a `.json` or `.yaml` file names, nested and unchecked.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read config {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path} is not a mapping of fields to values")
    return values


def replace(config: Config, delta: dict[str, Any]) -> Config:
    """The configuration with dotted fields changed, e.g. `{"perturbation.scale": 1.0}`."""
    nested: dict[str, Any] = {}
    for name, value in delta.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return from_dict(nested, config)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted field names to values, the inverse of the nesting."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def check_seed(seed: int) -> None:
    """Raises a `UserError` if a seed is not one that JAX and Gymnasium take."""
    if not 0 <= seed <= _LARGEST:
        raise UserError(f"seed is {seed}; it must be at least 0 and at most {_LARGEST}")


def _build(kind: type, values: Any, base: Any, path: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{path or 'config'} must be a mapping of fields to values, not {values!r}")
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise unknown(f"field of {path or 'the config'}", name, names)
        full, hint = f"{path}.{name}" if path else str(name), hints[name]
        if dataclasses.is_dataclass(hint):
            changed[name] = _build(typing.cast(type, hint), value, getattr(base, name), full)
        else:
            changed[name] = _convert(value, hint, full)
    return dataclasses.replace(base, **changed)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Checks one plain value against its annotation; lists become tuples, ints may be floats."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(o for o in options if o is not type(None)), path)
    if origin is Literal:
        if value not in options:
            raise unknown(f"value for {path}:", value, [str(o) for o in options])
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(path, "a list", value)
        return tuple(_convert(item, options[0], path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text.
        try:
            return float(value)
        except ValueError:
            raise _wrong_type(path, "a number", value) from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(path, f"of type {hint.__name__}", value)
    return value


def _wrong_type(path: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{path} must be {wanted}, not {value!r}")


_AT_LEAST_ZERO = {
    "perturbation.scale",
    "perturbation.floor",
    "eval.jitter",
    "value_update.weight_decay",
    "policy_update.weight_decay",
    "policy.init_scale",
    "representation.unf_chunk",
    "psvf.gae_lambda",
    "psvf.bound_cost",
    "ppo.entropy_cost",
    "seed",
}


_LARGEST = 2**31 - 1
"""Of whole numbers, which end up in JAX's 32 bits; env steps are counted in more."""


def _check_numbers(config: Config) -> None:
    for name, value in flatten(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if name in _AT_LEAST_ZERO and not 0 <= number < float("inf"):
                raise UserError(f"{name} is {number}; it must be finite and at least 0")
            if name not in _AT_LEAST_ZERO and not 0 < number < float("inf"):
                raise UserError(f"{name} is {number}; it must be finite and greater than 0")
            if name != "env_steps" and isinstance(number, int) and number > _LARGEST:
                raise UserError(f"{name} is too large; the largest is {_LARGEST}")


def _check_contradictions(config: Config) -> None:
    n, centres = config.num_envs, config.policy.num_centres
    if config.value_update.batch_size > config.buffer.size:
        raise UserError(
            f"value_update.batch_size {config.value_update.batch_size} is larger than buffer.size "
            f"{config.buffer.size}; make the buffer at least as large as a batch"
        )
    if n % centres:
        raise UserError(
            f"num_envs {n} is not a multiple of policy.num_centres {centres}; every centre needs "
            "equally many perturbations"
        )
    if config.buffer.store == "seeds" and (centres > 1 or config.buffer.size % n):
        raise UserError(
            "buffer.store 'seeds' needs a single policy centre and a buffer.size that is a "
            f"multiple of num_envs {n}, not {centres} centres and size {config.buffer.size}"
        )
    if config.perturbation.antithetic and (n // centres) % 2:
        raise UserError(
            "perturbation.antithetic needs an even number of policies per centre, "
            f"not {n // centres}"
        )
    _check_decay("policy_update", "learning_rate", config.policy_update)
    _check_decay("evolution", "learning_rate", config.evolution)
    _check_decay("evolution", "std", config.evolution)
    _check_psvf(config)
    if config.evolution.elite_ratio > 1:
        raise UserError(
            f"evolution.elite_ratio is {config.evolution.elite_ratio}; it must be at most 1"
        )
    if config.value_update.fit != "gradient" and config.value.hidden_sizes:
        raise UserError(
            f"value_update.fit {config.value_update.fit!r} needs a linear V; use "
            "value.hidden_sizes none, or value_update.fit 'gradient'"
        )
    if config.method == "ppo" and n % config.ppo.num_minibatches:
        raise UserError(
            f"num_envs {n} is not a multiple of ppo.num_minibatches {config.ppo.num_minibatches}"
        )
    if config.method in AGENTS and config.num_seeds > 1:
        raise UserError(
            f"method {config.method!r} trains one seed at a time, not num_seeds "
            f"{config.num_seeds}; start a run for each --seed"
        )
    if config.seed + config.num_seeds - 1 > _LARGEST:
        raise UserError(f"seed {config.seed} is too large; the largest is {_LARGEST}")


def _check_psvf(config: Config) -> None:
    psvf = config.psvf
    for name in ("discount", "gae_lambda", "fraction"):
        if getattr(psvf, name) > 1:
            raise UserError(f"psvf.{name} is {getattr(psvf, name)}; it must be at most 1")
    if psvf.discount == 1:
        raise UserError("psvf.discount is 1; it must be less, since environments never start anew")
    _check_decay("psvf", "noise", psvf)
    if config.method != "psvf":
        return
    if config.num_envs * psvf.horizon > _LARGEST:
        raise UserError(f"num_envs times psvf.horizon is too large; the largest is {_LARGEST}")
    if psvf.horizon % psvf.stride:
        raise UserError(
            f"psvf.horizon {psvf.horizon} is not a multiple of psvf.stride {psvf.stride}"
        )
    strides = int(config.num_envs * psvf.horizon // psvf.stride * psvf.fraction)
    if psvf.minibatches > strides:
        raise UserError(
            f"psvf.minibatches {psvf.minibatches} are more than the {strides} strides of a pass "
            "(num_envs times psvf.horizon / psvf.stride times psvf.fraction)"
        )
    if config.policy.num_centres > 1 or config.policy_update.optimizer == "normalised":
        raise UserError(
            "method 'psvf' needs policy.num_centres 1 and policy_update.optimizer adam or sgd"
        )


def _check_decay(group: str, name: str, values: Any) -> None:
    first, final = getattr(values, name), getattr(values, f"final_{name}")
    if final is not None and final > first:
        raise UserError(
            f"{group}.final_{name} {final} is above {group}.{name} {first}; the schedule only "
            "decays"
        )
