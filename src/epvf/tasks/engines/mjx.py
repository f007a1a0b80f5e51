"""Bodies on MJX: MuJoCo's physics as a JAX program."""

from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks.body import REMEMBERED, Body, State, transition
from epvf.tasks.calls import in_jax, refused
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import PRNGKey

if TYPE_CHECKING:
    from mujoco.mjx import Data, Model
else:  # MJX takes a second to import: only for those who step
    Data = Model = Any

Bits: TypeAlias = Callable[[Data], jax.Array]
Mark: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
Built: TypeAlias = Callable[[], tuple[Model, Data]]
"""Makes MJX's engine of a model, or has made it."""

_Moving: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

TOLERANCE = 1e-5
"""Smallest of solvers that iterate: float32 resolves no more, and would go on without gain.

One step is as near to the C engine's as with 1e-8, after as many iterations as that takes in
float64; see docs/performance.md. (MuJoCo Warp, also in float32, has 1e-6.)
"""

CPU_SLOTS = 64
"""A CPU steps so few environments as fast as many, and wastes less on finished policies."""


class MjxState(NamedTuple):
    """All that one step needs of the one before, float32.

    The rest of MJX's data is computed anew by every step; carrying it through the rollout's loop
    would cost memory traffic and change nothing. The observation is there because a step has to
    compute most of it for the reward.
    """

    qpos: Float[jax.Array, "nq"]
    qvel: Float[jax.Array, "nv"]
    qacc_warmstart: Float[jax.Array, "nv"]
    observation: Float[jax.Array, "observation"]


class TimedState(NamedTuple):
    """The same of a body whose formulas read the time."""

    qpos: Float[jax.Array, "nq"]
    qvel: Float[jax.Array, "nv"]
    qacc_warmstart: Float[jax.Array, "nv"]
    observation: Float[jax.Array, "observation"]
    time: Float[jax.Array, ""]


class WatchedState(NamedTuple):
    """The same of a body whose formulas read commands, or what the physics computes on the way.

    `xpos` and `subtree_com` are there where formulas read what they were a step ago.
    """

    qpos: Float[jax.Array, "nq"]
    qvel: Float[jax.Array, "nv"]
    qacc_warmstart: Float[jax.Array, "nv"]
    observation: Float[jax.Array, "observation"]
    time: Float[jax.Array, ""]
    command: Any
    xpos: Any
    subtree_com: Any


class Draws:
    """Random numbers as a generator of numpy's gives them, from a JAX key."""

    def __init__(self, key: PRNGKey) -> None:
        self._key = key

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> jax.Array:
        """U(low, high)."""
        return jax.random.uniform(self._next(), size, jnp.float32, low, high)

    def standard_normal(self, size: tuple[int, ...]) -> jax.Array:
        """N(0, 1)."""
        return jax.random.normal(self._next(), size, jnp.float32)

    def _next(self) -> PRNGKey:
        self._key, key = jax.random.split(self._key)
        return key


@cache
def library() -> Any:
    """MJX itself, imported when it is needed."""
    with redirect_stdout(None):  # where it says that Warp is not installed
        from mujoco import mjx
    return mjx


def _no_bits(data: Data) -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _as_it_is(reward: jax.Array, bits: jax.Array) -> jax.Array:
    return reward


def make(body: Body, episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task on MJX; on a CPU with few environments side by side unless told otherwise.

    Raises:
        UserError: if MJX cannot step the model, or JAX cannot trace a formula.
    """
    if num_slots is None and jax.default_backend() == "cpu":
        num_slots = CPU_SLOTS
    check(body)
    spec = body.spec("mjx", episode_length, traceable=True)
    return JaxTask(spec, environment_of(body), num_slots)


def check(body: Body) -> None:
    """Makes MJX's engine of the body, and traces formulas that are not of this package.

    Raises:
        UserError: if MJX cannot step the model, or JAX cannot trace a formula.
    """
    _built(body)
    if body.foreign:
        jax.eval_shape(environment_of(body).reset, jax.random.key(0))  # traces all formulas


def environment(
    body: Body,
    built: Built,
    bits: Bits = _no_bits,
    mark: Mark = _as_it_is,
) -> Environment:
    """The body as pure functions, stepped by MJX's engine of a model and blank data.

    What the engine tells of its steps in `bits`, `mark` may change a reward by.
    """

    def reset(key: PRNGKey) -> Any:
        qpos, qvel, command = _start(body, key)
        warmstart = jnp.zeros_like(qvel)
        ctrl = jnp.asarray(body.actions.offset, jnp.float32)
        derived = {}
        if body.derived:
            model, blank = built()
            first = blank.replace(qpos=qpos, qvel=qvel, ctrl=ctrl)
            derived = _Reads(body, model).at_start(first)
        earlier = {name: derived[REMEMBERED[name]] for name in body.remembered}
        time = jnp.zeros((), jnp.float32)
        state = State(qpos, qvel, ctrl, qpos, time, command, **derived, **earlier)
        return _kept(body, state, warmstart, transition(body, state).observation)

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        model, blank = built()
        reads = _Reads(body, model)
        time = getattr(state, "time", blank.time)
        moving = (state.qpos, state.qvel, state.qacc_warmstart, time)
        ctrl = body.actions(action)
        # TF32 has broken training on physics; MJX itself relies on rank promotion
        with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
            moved, told, derived = _physics(
                body.frame_skip, reads, blank.replace(ctrl=ctrl), moving, bits
            )
        qpos, qvel, warmstart, time = moved
        earlier = {name: getattr(state, REMEMBERED[name]) for name in body.remembered}
        command = getattr(state, "command", None)
        now = State(qpos, qvel, ctrl, state.qpos, time, command, **derived, **earlier)
        result = transition(body, now)
        after = _kept(body, now, warmstart, result.observation)
        return after, mark(result.reward, told), result.terminated

    return Environment(reset, step, lambda state: state.observation)


class _Reads(NamedTuple):
    """An engine's model, and what a body's formulas read of what it computes."""

    body: Body
    model: Model

    def at_start(self, data: Data) -> dict[str, jax.Array]:
        """Of a first state; contact forces are zero there, as in C."""
        with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
            return self.of(library().forward(self.model, data))

    def after_step(self, data: Data) -> dict[str, jax.Array]:
        """Of data after a step."""
        if "cfrc_ext" in self.body.derived:
            try:
                data = library().rne_postconstraint(self.model, data)
            except ValueError as error:
                raise self._lacks("cfrc_ext") from error
        return self.of(data)

    def of(self, data: Data) -> dict[str, jax.Array]:
        """What formulas read."""
        return {name: self._field(data, name) for name in self.body.derived}

    def _field(self, data: Data, name: str) -> jax.Array:
        for holder in (data._impl, data):  # some are the implementation's own
            if hasattr(holder, name):
                return jnp.asarray(getattr(holder, name))
        raise self._lacks(name)

    def _lacks(self, name: str) -> UserError:
        return UserError(
            f"task {self.body.name!r} reads s.{name}, which this backend does not compute; "
            "use backend 'native' or 'mjx'"
        )


def _physics(
    times: int, reads: _Reads, blank: Data, moving: _Moving, bits: Bits
) -> tuple[_Moving, jax.Array, dict[str, jax.Array]]:
    """So many steps of the physics: what moved, the bits that any step set, what is read of it."""

    def once(moving: _Moving) -> tuple[_Moving, jax.Array, dict[str, jax.Array]]:
        qpos, qvel, warmstart, time = moving
        data = library().step(
            reads.model, blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, time=time)
        )
        moved = (data.qpos, data.qvel, data.qacc_warmstart, data.time)
        return moved, bits(data), reads.after_step(data)

    def again(_: Any, carry: Any) -> Any:
        moved, told, derived = once(carry[0])
        return moved, carry[1] | told, derived

    if times == 1:
        return once(moving)
    # a loop compiles the physics once
    _, told, derived = jax.eval_shape(once, moving)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (told, derived))
    moved: Any = jax.lax.fori_loop(0, times, again, (moving, *nothing))
    return moved


def _kept(body: Body, state: State, warmstart: jax.Array, observation: jax.Array) -> Any:
    parts = (state.qpos, state.qvel, warmstart, observation)
    if body.command_size or body.remembered:
        sources = {REMEMBERED[name] for name in body.remembered}
        earlier = (
            state._asdict()[name] if name in sources else None for name in REMEMBERED.values()
        )
        return WatchedState(*parts, state.time, state.command, *earlier)
    return TimedState(*parts, state.time) if "time" in body.reads else MjxState(*parts)


def _start(body: Body, key: PRNGKey) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Positions, velocities and, if there are any, commands of a new episode."""
    model = body.model()
    qpos, qvel = jnp.asarray(model.qpos0, jnp.float32), jnp.zeros(model.nv, jnp.float32)
    if body.starts is None:
        return qpos, qvel, None
    try:
        parts = [jnp.asarray(part[0]) for part in in_jax(body.starts)(Draws(key), 1)]
    except UserError:
        raise
    except Exception as error:  # whatever somebody's function does
        raise refused(body.name, "starts", body.starts, error) from error
    command = parts[2].astype(jnp.float32) if body.command_size else None
    return qpos + parts[0], qvel + parts[1], command


@cache  # one object, so that its compiled rollouts are shared
def environment_of(body: Body) -> Environment:
    """The body as pure functions; MJX is there once one of them needs it."""
    return environment(body, partial(_built, body))


@cache
def _built(body: Body) -> tuple[Model, Data]:
    mjx, model = library(), body.model()
    try:
        # MJX's own choice is a device of the first process
        here = jax.local_devices()[0]
        with jax.ensure_compile_time_eval():  # though a function be traced that asks for it
            device_model = _resolvable(mjx.put_model(model, here, impl="jax"))
            blank = mjx.make_data(model, here, impl="jax")
    except NotImplementedError as error:
        raise UserError(
            f"MJX cannot step the model of task {body.name!r}: {in_a_line(error)}; "
            "use backend 'native'"
        ) from error
    return device_model, blank


def _resolvable(model: Model) -> Model:
    """The model, with a tolerance that its solver can reach, where it does not stop by itself."""
    if int(model.opt.iterations) == 1:
        return model
    tolerance = jnp.maximum(model.opt.tolerance, TOLERANCE)
    return model.replace(opt=model.opt.replace(tolerance=tolerance))
