"""One policy's episode on MuJoCo's C engine as one compiled loop: act, step, observe.

The loop stays with one policy from reset to end, so that its weights and its simulation stay in
the processor's cache, and it holds neither Python nor its lock on the way. The formulas are those
of the bodies' own modules, compiled by numba.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import mujoco
import numpy as np
from jaxtyping import Bool, Float
from numba import literal_unroll, njit
from numba.core.types import ExternalFunction, int32, uintp, void
from numba.core.typing import signature

from epvf.policies.mlp import Policy
from epvf.tasks import ant, half_cheetah, hopper
from epvf.tasks.body import ANT, HOPPER, Body

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
"""What of a simulation decides its future."""

NOWHERE = np.zeros(0)
"""Offsets of the start of an episode that begins where the model does."""


class _Simulation(NamedTuple):
    """Addresses of MuJoCo's structs, live views of what is in them, and room for a state.

    `before` is for the first coordinate of the position before a step.
    """

    body: int
    frame_skip: int
    model: int
    data: int
    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray
    alarms: np.ndarray
    state: np.ndarray
    before: np.ndarray


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
        state: `[S]` integration state, float32. All zero: an environment not yet reset.
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

    def __init__(self, policy: Policy, body: Body = ANT) -> None:
        model, data = body.model(), mujoco.MjData(body.model())
        self._owners = (model, data)
        alarms = data.warning.number[ant.ALARMS]
        self._simulation = _Simulation(
            body.code,
            body.frame_skip,
            model._address,
            data._address,
            data.qpos,
            data.qvel,
            data.ctrl,
            alarms,
            np.zeros(state_size(body)),
            np.zeros(1),
        )
        self._network = _network(policy)

    def run(
        self,
        theta: Float[np.ndarray, "P"],
        episode_length: int,
        stop: Bool[np.ndarray, "1"],
        samples: Float[np.ndarray, "K state"],
        start: Float[np.ndarray, "offsets"] = NOWHERE,
    ) -> tuple[float, int, int]:
        """Runs a policy until it falls, fails or has no time left.

        Args:
            theta: `[P]` float32.
            episode_length: longest episode in steps.
            stop: ends the episode where it is, once another thread makes it true.
            samples: filled with integration states along the way, `K` of a longest episode.
            start: offsets of the first positions and velocities, or none.

        Returns:
            The return, NaN where an action, the physics or an observation was not finite; the
            number of steps; and how many samples were taken.
        """
        simulation, network = self._simulation, self._network
        return _run(simulation, network, theta, episode_length, start, stop, samples)

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
        _explore(self._simulation, self._network, theta, episode_length, start, rows)


def state_size(body: Body = ANT) -> int:
    """Numbers in an integration state."""
    return int(mujoco.mj_stateSize(body.model(), STATE))


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

_TANH, _RELU, _ELU, _CLIP = range(4)
_CODES = {"tanh": _TANH, "relu": _RELU, "elu": _ELU, "clip": _CLIP}

_torso_frame = njit(ant.torso_frame)
_observed = njit(ant.observed)
_log_reward = njit(ant.log_reward)
_fallen = njit(ant.fallen)
_hopper_observed = njit(hopper.observed)
_hopper_down = njit(hopper.down)
_hopper_reward = njit(hopper.reward)
_cheetah_observed = njit(half_cheetah.observed)
_cheetah_reward = njit(half_cheetah.reward)
_ANT, _HOPPER = ANT.code, HOPPER.code

# products and sums may be fused, but keep their order: the same bits in every run
_jit: Any = partial(njit, nogil=True, fastmath={"contract"}, error_model="numpy")
_compiled = _jit()


def _compile(formulas: bytes) -> tuple[Any, Any]:
    """The loops over an episode and over a segment; compiled at their first call, kept on disk.

    numba looks only at this file to see whether what it kept is out of date, and at what a function
    encloses: hence the tasks' `formulas`.
    """
    version = hashlib.sha256(formulas).hexdigest()

    @_jit(cache=True)
    def run(
        simulation: Any,
        network: Any,
        theta: Any,
        episode_length: Any,
        start: Any,
        stop: Any,
        samples: Any,
    ) -> Any:
        _ = version
        interval = max(1, episode_length // max(1, len(samples)))
        total = np.float32(0.0)
        taken = 0
        _begin(simulation, start)
        _observe(simulation, network.observation)
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

    @_jit(cache=True)
    def explore(
        simulation: Any,
        network: Any,
        theta: Any,
        episode_length: Any,
        start: Any,
        rows: SegmentRows,
    ) -> None:
        _ = version
        _resume(simulation, rows.state, start)
        _observe(simulation, network.observation)
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
        _pause(simulation, rows.state)

    return run, explore


@_compiled
def _advance(simulation: Any, network: Any, theta: Any) -> Any:
    """Acts and steps; the reward, NaN where anything failed, and whether the episode is over."""
    action = _act(network, theta)
    if not _finite(action):
        return np.nan, True
    simulation.ctrl[:] = action
    simulation.before[0] = simulation.qpos[0]
    for _ in range(simulation.frame_skip):
        _step(simulation.model, simulation.data)
    reward, terminated = _observe(simulation, network.observation)
    if simulation.alarms.sum():
        return np.nan, True
    return reward, terminated


@_compiled
def _begin(simulation: Any, start: Any) -> None:
    """Puts a simulation into the first state of an episode, so far from the model's own."""
    _reset(simulation.model, simulation.data)
    if len(start):
        simulation.qpos[:] += start[: len(simulation.qpos)]
        simulation.qvel[:] += start[len(simulation.qpos) :]


@_compiled
def _resume(simulation: Any, state: Any, start: Any) -> None:
    """Puts a simulation into a state that `_pause` kept, or into the first one of an episode."""
    _begin(simulation, start)
    if state.any():
        simulation.state[:] = state
        _set_state(simulation.model, simulation.data, simulation.state.ctypes.data, STATE)


@_compiled
def _pause(simulation: Any, state: Any) -> None:
    _get_state(simulation.model, simulation.data, simulation.state.ctypes.data, STATE)
    state[:] = simulation.state


@_compiled
def _observe(simulation: Any, observation: Any) -> Any:
    """Writes the observation of a state; returns its reward, and whether it is terminal.

    Where anything is not finite, the reward is NaN and the state terminal.
    """
    if simulation.body == _ANT:
        return _observe_ant(simulation, observation)
    if simulation.body == _HOPPER:
        return _observe_hopper(simulation, observation)
    return _observe_half_cheetah(simulation, observation)


@_compiled
def _observe_ant(simulation: Any, observation: Any) -> Any:
    """As `ant.transition`."""
    qpos, qvel = simulation.qpos, simulation.qvel
    frame = _torso_frame(qpos[3], qpos[4], qpos[5], qpos[6], qvel[0], qvel[1], qvel[2])
    columns = np.array(frame)
    healthy = True
    i = 0
    for part in literal_unroll(_observed(qpos, qvel, simulation.ctrl, columns[:3], columns[3:])):
        healthy &= _write(part, ant.OBSERVATION_LIMIT, observation[i : i + len(part)])
        i += len(part)
    if not healthy:
        return np.nan, True
    return np.exp(_log_reward(frame[0], frame[1])), _fallen(qpos[2])


@_compiled
def _observe_hopper(simulation: Any, observation: Any) -> Any:
    qpos, qvel = simulation.qpos, simulation.qvel
    if not _write(_hopper_observed(qpos, qvel), np.inf, observation):
        return np.nan, True
    down = _hopper_down(qpos, qvel)
    return _hopper_reward(qpos[0] - simulation.before[0], simulation.ctrl, down), down


@_compiled
def _observe_half_cheetah(simulation: Any, observation: Any) -> Any:
    qpos, qvel = simulation.qpos, simulation.qvel
    if not _write(_cheetah_observed(qpos, qvel), np.inf, observation):
        return np.nan, True
    return _cheetah_reward(qpos[0] - simulation.before[0], simulation.ctrl), False


@_compiled
def _write(values: Any, limit: float, observation: Any) -> bool:
    """Writes values within the limit, 0 where they are not finite; whether all are."""
    healthy = True
    for i in range(len(values)):
        value = values[i]
        finite = np.isfinite(value)
        healthy &= finite
        observation[i] = min(max(value, -limit), limit) if finite else 0.0
    return healthy


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


_FILES = (ant.__file__, hopper.__file__, half_cheetah.__file__)
_run, _explore = _compile(b"".join(Path(file).read_bytes() for file in _FILES))
