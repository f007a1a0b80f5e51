"""One policy's episode on MuJoCo's C engine as one compiled loop: act, step, observe.

The loop stays with one policy from reset to end, so that its weights and its simulation stay in
the processor's cache, and it holds neither Python nor its lock on the way. The formulas are the
body's own, compiled by numba into loops of its own.
"""

import re
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import mujoco
import numpy as np
from jaxtyping import Bool, Float
from numba import literal_unroll, njit, types
from numba.core.errors import NumbaError
from numba.core.types import ExternalFunction, int32, uintp, void
from numba.core.typing import signature
from numba.extending import overload

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.runtime.kept import kept
from epvf.tasks.body import ALARMS, DERIVED, Body, State, first_state
from epvf.tasks.calls import complaint, place_of
from epvf.tasks.engines.fingerprint import fingerprint
from epvf.tasks.engines.jitted import jitted, renamed

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
"""What of a simulation decides its future."""

NOWHERE = np.zeros(0)
"""Offsets of the start of an episode that begins where the model does."""

UNSEEN = np.zeros(0, np.float32)
"""No room for what is observed at the start of an episode."""

_TIME = int(mujoco.mjtState.mjSTATE_TIME)


class _Derived(NamedTuple):
    """Live views of what MuJoCo computes of a state."""

    sensordata: np.ndarray
    xpos: np.ndarray
    xquat: np.ndarray
    site_xpos: np.ndarray
    cvel: np.ndarray
    cinert: np.ndarray
    subtree_com: np.ndarray
    qfrc_actuator: np.ndarray
    qfrc_constraint: np.ndarray
    cfrc_ext: np.ndarray


class _Simulation(NamedTuple):
    """Addresses of MuJoCo's structs, live views of what is in them, and room for a state.

    `previous`, `previous_xpos` and `previous_com` are for what was before a step, `time` and
    `command` for the episode's; `offset` and `scale` make controls of actions.
    """

    frame_skip: int
    model: int
    data: int
    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray
    alarms: np.ndarray
    state: np.ndarray
    previous: np.ndarray
    time: np.ndarray
    command: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    derived: _Derived
    previous_xpos: np.ndarray
    previous_com: np.ndarray


class _Network(NamedTuple):
    """A row `kernel, bias, inputs, outputs, activation` for each layer, and work space.

    `kernel` and `bias` are where these start in θ; `logits` are the last layer's outputs before
    they become an action.
    """

    layers: np.ndarray
    observation: np.ndarray
    outputs: np.ndarray
    logits: np.ndarray


class SegmentRows(NamedTuple):
    """The rows of one environment in the arrays of a `Segment` and its `Envs`.

    Attributes:
        state: `[kept_size]` float32. All zero: an environment not yet reset.
        steps, finished_steps: `[1]` int32.
        total, finished: `[1]` float32.
        observations: `[H + 1, observation]`.
        outputs: `[H, A]`.
        rewards: `[H]`.
        terminated, truncated: `[H]`.
    """

    state: np.ndarray
    steps: np.ndarray
    total: np.ndarray
    finished: np.ndarray
    finished_steps: np.ndarray
    observations: np.ndarray
    outputs: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Episode:
    """One simulation, in which policies of an architecture run one after the other."""

    def __init__(self, policy: Policy, body: Body) -> None:
        model, data = body.model(), mujoco.MjData(body.model())
        self._owners = (model, data)
        self._simulation = _Simulation(
            body.frame_skip,
            model._address,
            data._address,
            data.qpos,
            data.qvel,
            data.ctrl,
            data.warning.number[ALARMS],
            np.zeros(state_size(body)),
            np.zeros(model.nq),
            np.zeros(1),
            np.zeros(body.command_size),
            body.actions.offset,
            body.actions.scale,
            _Derived(*(getattr(data, name) for name in DERIVED)),
            np.zeros((model.nbody, 3)),
            np.zeros((model.nbody, 3)),
        )
        self._network = _network(policy)
        self._loops = compiled_for(body)

    def run(
        self,
        theta: Float[np.ndarray, "P"],
        episode_length: int,
        stop: Bool[np.ndarray, "1"],
        samples: Float[np.ndarray, "K state"],
        start: Float[np.ndarray, "offsets"] = NOWHERE,
        seen: Float[np.ndarray, "observation"] = UNSEEN,
    ) -> tuple[float, int, int]:
        """Runs a policy until it falls, fails or has no time left.

        Args:
            theta: `[P]` float32.
            episode_length: longest episode in steps.
            stop: ends the episode where it is, once another thread makes it true.
            samples: filled with integration states along the way, `K` of a longest episode.
            start: offsets of the first positions and velocities, or none.
            seen: filled with what is observed at the start, or empty.

        Returns:
            The return, NaN where an action, the physics or an observation was not finite; the
            number of steps; and how many samples were taken.
        """
        simulation, network = self._simulation, self._network
        return self._loops.run(
            simulation, network, theta, episode_length, start, stop, samples, seen
        )

    def explore(
        self,
        theta: Float[np.ndarray, "P"],
        episode_length: int,
        rows: "SegmentRows",
        start: Float[np.ndarray, "offsets"] = NOWHERE,
    ) -> None:
        """Runs a policy for a segment in an environment, and writes down what it met.

        Args:
            theta: `[P]` float32.
            episode_length: longest episode in steps.
            rows: of the environment, filled in place.
            start: as for `run`, of all episodes that start in the segment.
        """
        self._loops.explore(self._simulation, self._network, theta, episode_length, start, rows)

    def replay(
        self,
        actions: Float[np.ndarray, "T action"],
        rows: "ReplayRows",
        start: Float[np.ndarray, "offsets"] = NOWHERE,
    ) -> None:
        """Takes given actions, one after the other, and writes down what they led to.

        Args:
            actions: `[T, nu]` in [-1, 1]; one that is not finite fails.
            rows: filled in place, as a `Replay`'s.
            start: as for `run`.
        """
        self._loops.replay(self._simulation, self._network.observation, actions, start, rows)


class ReplayRows(NamedTuple):
    """The rows of one environment in the arrays of a `Replay`.

    Attributes:
        observation: `[T, observation]` float32.
        reward: `[T]` float32.
        terminated: `[T]`.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def state_size(body: Body) -> int:
    """Numbers in an integration state."""
    return int(mujoco.mj_stateSize(body.model(), STATE))


def kept_size(body: Body) -> int:
    """Numbers that are kept of an environment that waits in the middle of an episode.

    What MuJoCo computed on the way to a state cannot be had from it again, so that where formulas
    read that, the observation is kept too, and what they may read of the step before.
    """
    size = state_size(body)
    if not _keeps(body):
        return size
    frames = 3 * int(body.model().nbody)
    return size + body.command_size + body.observation_size + 2 * frames


def _keeps(body: Body) -> bool:
    return bool(body.derived) or body.command_size > 0


def _network(policy: Policy) -> _Network:
    positions = policy.unravel(np.arange(policy.num_parameters))
    names = [policy.activation] * (len(policy.shapes) - 1) + [policy.output]
    layers = [
        (layer.kernel.flat[0], layer.bias.flat[0], *layer.kernel.shape, _CODES[name])
        for layer, name in zip(positions, names, strict=True)
    ]
    return _Network(
        np.array(layers, np.int64),
        np.zeros(policy.layer_sizes[0], np.float32),
        np.zeros((len(layers), max(policy.layer_sizes)), np.float32),
        np.zeros(policy.layer_sizes[-1], np.float32),
    )


for _library in Path(mujoco.__file__).parent.glob("libmujoco*"):
    llvmlite.binding.load_library_permanently(str(_library))

_reset: Any = ExternalFunction("mj_resetData", signature(void, uintp, uintp))
_step: Any = ExternalFunction("mj_step", signature(void, uintp, uintp))
_set_state: Any = ExternalFunction("mj_setState", signature(void, uintp, uintp, uintp, int32))
_get_state: Any = ExternalFunction("mj_getState", signature(void, uintp, uintp, uintp, int32))
_forward: Any = ExternalFunction("mj_forward", signature(void, uintp, uintp))
_contact_forces: Any = ExternalFunction("mj_rnePostConstraint", signature(void, uintp, uintp))

_TANH, _RELU, _ELU, _CLIP = range(4)
_CODES = {"tanh": _TANH, "relu": _RELU, "elu": _ELU, "clip": _CLIP}

# products and sums may be fused, but keep their order: the same bits in every run
_FUSED: dict[str, Any] = {"fastmath": {"contract"}}
_jit: Any = partial(njit, nogil=True, error_model="numpy", **_FUSED)
_compiled = _jit()


@cache
def check_compiles(body: Body) -> None:
    """Tries whether numba takes formulas that are not ours, each alone.

    Raises:
        UserError: if one cannot be compiled; it names the file and the line.
    """
    for which in body.foreign:
        try:
            jitted(getattr(body, which), "alone")(first_state(body))
        except NumbaError as error:
            raise _uncompiled(body, which, str(error)) from error


def _uncompiled(body: Body, which: str, told: str) -> UserError:
    """What is to be said of a formula that numba cannot compile, and told so at length."""
    formula = getattr(body, which)
    lines = [line.strip() for line in told.splitlines()]
    reasons = [line for line in lines[1:] if line and not line.startswith(("File", "-", ">"))]
    name = Path(formula.__code__.co_filename).name
    found = re.findall(rf'{re.escape(name)}", line (\d+)', told)
    place = f"{name}:{found[-1]}" if found else place_of(formula)
    why = reasons[0] if reasons else "no reason told"
    return complaint(body.name, which, place, f"numba cannot compile it: {why}")


class Loops(NamedTuple):
    """What is compiled for a body, at the first call of each.

    Attributes:
        run: as `Episode.run`.
        explore: as `Episode.explore`.
        replay: as `Episode.replay`.
        transitions: rows of states to rows of what `body.transition` makes of them, where formulas
            read nothing that MuJoCo has to compute.
    """

    run: Any
    explore: Any
    replay: Any
    transitions: Any


@cache
def compiled_for(body: Body) -> Loops:
    """The loops with a body's formulas in them; made once, and kept on disk."""
    return _compile(body, fingerprint(body))


def _compile(body: Body, version: str) -> Loops:
    """The loops with the body's formulas as names of their module.

    numba looks only at this file and at a function's name to see whether what it kept on disk is
    out of date, and the linker only at names, too: hence the `version` of the formulas in the name
    of everything that is compiled for them.
    """
    end = body.terminated or _never
    names = {
        **globals(),
        "_formula_observe": jitted(body.observe, version),
        "_formula_reward": jitted(body.reward, version),
        "_formula_terminated": jitted(end, version),
        "_OBSERVATION_LIMIT": body.observation_limit,
        "_READS_TIME": "time" in body.reads,
        "_KEEPS": _keeps(body),
        "_DERIVES": bool(body.derived),
        "_REMEMBERS": bool(body.remembered),
        "_FEELS": "cfrc_ext" in body.reads,
    }

    parts: tuple[Any, ...] = (_look, _observe, _move, _advance, _begin, _resume, _pause)
    for function in parts:
        names[function.__name__] = _compiled(renamed(function, version, names))
    loops: tuple[Any, ...] = (_run, _explore, _replay, _transitions)
    return Loops(*(kept(renamed(loop, version, names), **_FUSED) for loop in loops))


def _never(s: Any) -> bool:
    return False


# What follows down to `_pause` is compiled for each body, with its formulas as these names.
_formula_observe: Any
_formula_reward: Any
_formula_terminated: Any
_OBSERVATION_LIMIT: float
_READS_TIME: bool
_KEEPS: bool
_DERIVES: bool
_REMEMBERS: bool
_FEELS: bool


def _run(
    simulation: Any,
    network: Any,
    theta: Any,
    episode_length: Any,
    start: Any,
    stop: Any,
    samples: Any,
    seen: Any,
) -> Any:
    interval = max(1, episode_length // max(1, len(samples)))
    total = np.float32(0.0)
    taken = 0
    _begin(simulation, start)
    _observe(simulation, network.observation)
    if len(seen):
        seen[:] = network.observation
    for step in range(episode_length):
        reward, terminated = _advance(simulation, network, theta)
        if np.isnan(reward):
            return np.float32(np.nan), step + 1, taken
        total += np.float32(reward)
        # in the middle of intervals: at their starts, short episodes would count for too much
        if step % interval == interval // 2 and taken < len(samples):
            _get_state(simulation.model, simulation.data, samples[taken].ctypes.data, STATE)
            taken += 1
        if terminated or stop[0]:
            return total, step + 1, taken
    return total, episode_length, taken


def _explore(
    simulation: Any,
    network: Any,
    theta: Any,
    episode_length: Any,
    start: Any,
    rows: SegmentRows,
) -> None:
    _resume(simulation, network.observation, rows.state, start)
    for step in range(len(rows.rewards)):
        rows.observations[step] = network.observation
        reward, terminated = _advance(simulation, network, theta)
        rows.outputs[step] = network.logits
        rows.rewards[step] = reward
        rows.steps[0] += 1
        if np.isfinite(reward):
            rows.total[0] += np.float32(reward)
        rows.terminated[step] = terminated
        rows.truncated[step] = rows.steps[0] >= episode_length and not terminated
        if rows.terminated[step] or rows.truncated[step]:
            rows.finished[0], rows.finished_steps[0] = rows.total[0], rows.steps[0]
            rows.total[0], rows.steps[0] = 0.0, 0
            _begin(simulation, start)
            _observe(simulation, network.observation)
    rows.observations[-1] = network.observation
    _pause(simulation, network.observation, rows.state)


def _replay(simulation: Any, observation: Any, actions: Any, start: Any, rows: ReplayRows) -> None:
    _begin(simulation, start)
    _observe(simulation, observation)
    over = False
    for step in range(len(actions)):
        if over:
            rows.observation[step] = rows.observation[step - 1]
            rows.reward[step] = 0.0
        elif _finite(actions[step]):
            rows.reward[step], over = _move(simulation, observation, actions[step])
            rows.observation[step] = observation
        else:
            rows.observation[step] = observation
            rows.reward[step], over = np.nan, True
        rows.terminated[step] = over


def _transitions(states: Any, observation: Any, reward: Any, terminated: Any) -> None:
    for i in range(len(reward)):
        state = State(
            states.qpos[i],
            states.qvel[i],
            states.ctrl[i],
            states.previous_qpos[i],
            states.time[i],
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
        )
        reward[i], terminated[i] = _look(state, observation[i])


def _advance(simulation: Any, network: Any, theta: Any) -> Any:
    """Acts and steps; the reward, NaN where anything failed, and whether the episode is over."""
    action = _act(network, theta)
    if not _finite(action):
        return np.nan, True
    return _move(simulation, network.observation, action)


def _move(simulation: Any, observation: Any, action: Any) -> Any:
    """Steps with an action that is finite; returns as `_advance`."""
    for i in range(len(action)):
        simulation.ctrl[i] = simulation.offset[i] + simulation.scale[i] * action[i]
    simulation.previous[:] = simulation.qpos
    if _REMEMBERS:
        simulation.previous_xpos[:] = simulation.derived.xpos
        simulation.previous_com[:] = simulation.derived.subtree_com
    for _ in range(simulation.frame_skip):
        _step(simulation.model, simulation.data)
    if _FEELS:
        _contact_forces(simulation.model, simulation.data)
    reward, terminated = _observe(simulation, observation)
    if simulation.alarms.sum():
        return np.nan, True
    return reward, terminated


def _observe(simulation: Any, observation: Any) -> Any:
    """Writes the observation of a simulation; returns its reward, and whether it is terminal."""
    if _READS_TIME:
        _get_state(simulation.model, simulation.data, simulation.time.ctypes.data, _TIME)
    state = State(
        simulation.qpos,
        simulation.qvel,
        simulation.ctrl,
        simulation.previous,
        simulation.time[0],
        simulation.command,
        simulation.derived.sensordata,
        simulation.derived.xpos,
        simulation.derived.xquat,
        simulation.derived.site_xpos,
        simulation.derived.cvel,
        simulation.derived.cinert,
        simulation.derived.subtree_com,
        simulation.derived.qfrc_actuator,
        simulation.derived.qfrc_constraint,
        simulation.derived.cfrc_ext,
        simulation.previous_xpos,
        simulation.previous_com,
    )
    return _look(state, observation)


def _look(state: Any, observation: Any) -> Any:
    """As `body.transition`: writes the observation; returns the reward, and whether it is over."""
    healthy = True
    i = 0
    for part in literal_unroll(_parts(_formula_observe(state))):
        sound, i = _write(part, _OBSERVATION_LIMIT, observation, i)
        healthy &= sound
    if not healthy:
        return np.nan, True
    reward = float(_formula_reward(state))
    return reward, bool(_formula_terminated(state)) or not np.isfinite(reward)


def _begin(simulation: Any, start: Any) -> None:
    """Puts a simulation into the first state of an episode, so far from the model's own."""
    _reset(simulation.model, simulation.data)
    nq, nv = len(simulation.qpos), len(simulation.qvel)
    simulation.ctrl[:] = simulation.offset
    if len(start):
        simulation.qpos[:] += start[:nq]
        simulation.qvel[:] += start[nq : nq + nv]
        simulation.command[:] = start[nq + nv :]
    simulation.previous[:] = simulation.qpos
    if _DERIVES:
        _forward(simulation.model, simulation.data)
        simulation.previous_xpos[:] = simulation.derived.xpos
        simulation.previous_com[:] = simulation.derived.subtree_com


def _resume(simulation: Any, observation: Any, state: Any, start: Any) -> None:
    """Puts a simulation into a state that `_pause` kept, or into the first one of an episode.

    Writes what is observed there.
    """
    _begin(simulation, start)
    waited = state.any()
    if waited:
        size = len(simulation.state)
        simulation.state[:] = state[:size]
        _set_state(simulation.model, simulation.data, simulation.state.ctypes.data, STATE)
        if _KEEPS:
            i = _taken(simulation.command, state, size)
            i = _taken(observation, state, i)
            i = _taken(simulation.derived.xpos.reshape(-1), state, i)
            i = _taken(simulation.derived.subtree_com.reshape(-1), state, i)
    if not (waited and _KEEPS):
        _observe(simulation, observation)


def _pause(simulation: Any, observation: Any, state: Any) -> None:
    _get_state(simulation.model, simulation.data, simulation.state.ctypes.data, STATE)
    size = len(simulation.state)
    state[:size] = simulation.state
    if _KEEPS:
        i = _put_down(simulation.command, state, size)
        i = _put_down(observation, state, i)
        i = _put_down(simulation.derived.xpos.reshape(-1), state, i)
        i = _put_down(simulation.derived.subtree_com.reshape(-1), state, i)


@_compiled
def _taken(row: Any, state: Any, i: int) -> int:
    """Fills a row with what was kept from place `i` on; returns the place behind."""
    row[:] = state[i : i + len(row)]
    return i + len(row)


@_compiled
def _put_down(row: Any, state: Any, i: int) -> int:
    """Keeps a row from place `i` on; returns the place behind."""
    state[i : i + len(row)] = row
    return i + len(row)


def _parts(observed: Any) -> Any:
    """What `observe` returns, as a tuple of its parts."""
    raise NotImplementedError  # a name for numba


@overload(_parts, strict=False)
def _compiled_parts(observed: Any) -> Any:
    if isinstance(observed, types.BaseTuple):
        return lambda observed: observed
    return lambda observed: (observed,)


def _write(part: Any, limit: float, observation: Any, i: int) -> Any:
    """Writes numbers from place `i` on: within the limit, 0 where they are not finite.

    Returns whether all are finite, and the place behind them.
    """
    raise NotImplementedError  # a name for numba


@overload(_write, strict=False)
def _compiled_write(part: Any, limit: float, observation: Any, i: int) -> Any:
    if isinstance(part, types.Array):
        return _write_row if part.ndim == 1 else _write_table
    return _write_number


def _write_row(part: Any, limit: float, observation: Any, i: int) -> Any:
    healthy = True
    for j in range(len(part)):
        healthy &= _put(part[j], limit, observation, i + j)
    return healthy, i + len(part)


def _write_table(part: Any, limit: float, observation: Any, i: int) -> Any:
    healthy = True
    for number in part.flat:
        healthy &= _put(number, limit, observation, i)
        i += 1
    return healthy, i


def _write_number(part: Any, limit: float, observation: Any, i: int) -> Any:
    return _put(part, limit, observation, i), i + 1


@_compiled
def _put(number: Any, limit: float, observation: Any, i: int) -> bool:
    value = float(number)
    finite = np.isfinite(value)
    observation[i] = min(max(value, -limit), limit) if finite else 0.0
    return finite


@_compiled
def _act(network: Any, theta: Any) -> Any:
    x = network.observation
    for i in range(len(network.layers)):
        kernel, bias, inputs, outputs, activation = network.layers[i]
        y = network.outputs[i, :outputs]
        y[:] = theta[bias : bias + outputs]
        _add_product(x, theta[kernel : kernel + inputs * outputs].reshape(inputs, outputs), y)
        if i == len(network.layers) - 1:
            network.logits[:] = y
        _activate(activation, y)
        x = y
    return x


@_compiled
def _add_product(x: Any, kernel: Any, y: Any) -> None:
    for i in range(len(x)):
        factor, row = x[i], kernel[i]
        for j in range(len(row)):
            y[j] += factor * row[j]


@_compiled
def _finite(numbers: Any) -> bool:
    finite = True
    for number in numbers:
        finite &= np.isfinite(number)
    return finite


@_compiled
def _activate(activation: Any, y: Any) -> None:
    if activation == _TANH:
        for i in range(len(y)):
            y[i] = tanh(y[i])
    elif activation == _RELU:
        for i in range(len(y)):
            y[i] = max(y[i], np.float32(0.0))
    elif activation == _ELU:
        for i in range(len(y)):
            y[i] = y[i] if y[i] > 0.0 else np.expm1(y[i])
    else:
        for i in range(len(y)):
            y[i] = min(max(y[i], np.float32(-1.0)), np.float32(1.0))


@_compiled
def tanh(x: Any) -> Any:
    """tanh of a float32 to within 3e-7, as the rational function that Eigen and XLA use.

    A loop over the C library's tanh does not vectorise and would take longer than the products.
    NaN stays NaN.
    """
    f = np.float32
    bound = f(7.90531110763549805)
    x = f(x)
    x = bound if x > bound else (-bound if x < -bound else x)
    s = x * x
    p = f(-2.76076847742355e-16)
    p = s * p + f(2.00018790482477e-13)
    p = s * p + f(-8.60467152213735e-11)
    p = s * p + f(5.12229709037114e-08)
    p = s * p + f(1.48572235717979e-05)
    p = s * p + f(6.37261928875436e-04)
    p = s * p + f(4.89352455891786e-03)
    q = f(1.19825839466702e-06)
    q = s * q + f(1.18534705686654e-04)
    q = s * q + f(2.26843463243900e-03)
    q = s * q + f(4.89352518554385e-03)
    return x * p / q
