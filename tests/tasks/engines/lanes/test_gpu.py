"""Tasks on a GPU, their kernels run by threads of the host: what JAX gives them and makes of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.mlp import Policy
from epvf.tasks import cartpole
from epvf.tasks.ant import BODY
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.engines.lanes import GpuTask, LanesTask, gpu, ptx
from epvf.tasks.engines.lanes.program import Program
from epvf.types import Array, Segment
from thread_blocks import Emulated

POLICY = Policy((4, 8, 2), output="argmax")
NUM, LENGTH, HORIZON = 5, 20, 30


@pytest.fixture(scope="module")
def host() -> LanesTask:
    task = cartpole.make(LENGTH)
    made = lanes.make(task.environment, task.spec, 1)
    assert isinstance(made, LanesTask)
    return made


class Device:
    """Stands for XLA's way to launch kernels."""

    def __init__(self, host: LanesTask, policy: Policy) -> None:
        self._kernels = {
            name: Emulated(host.program, policy, name, warps=1, lanes=1)
            for name in ("episodes", "segment")
        }
        self._host = host
        self.launches: list[dict[str, Any]] = []
        self.sizes: list[int] = []

    def task(self, warps: int | None = None) -> GpuTask:
        """The task on this device; equal to no other's, so that JAX traces its calls anew."""
        spec = replace(self._host.spec, traceable=True)
        return GpuTask(self._host.program, spec, warps, self.source)

    def source(self, program: Program, policy: Policy, name: str, warps: int) -> str:
        return ptx.source(program, policy, name, warps)

    def ffi_call(self, target: str, results: Any) -> Callable[..., Any]:
        assert target == gpu.TARGET

        def call(*given: jax.Array, **attributes: Any) -> Any:
            self.launches.append(attributes)

            def run(*arrays: Any) -> Any:
                out = [np.zeros(result.shape, result.dtype) for result in results]
                own = [np.ascontiguousarray(array) for array in arrays]
                self.sizes.append(int(own[-1][0]))
                self._kernels[attributes["name"]](self.sizes[-1], *own, *out[:-1])
                return out

            return jax.pure_callback(run, results, *given)

        return call


@pytest.fixture
def device(host: LanesTask, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(host, POLICY)
    monkeypatch.setattr(jax.ffi, "ffi_call", made.ffi_call)
    return made


def _thetas(seed: int = 0) -> np.ndarray:
    """Policies of which some balance until the time is over."""
    keys = jax.random.split(jax.random.key(seed), NUM)
    made = np.array(jax.vmap(lambda key: POLICY.init(key, "lecun_uniform", 2.0))(keys))
    layers = POLICY.unravel(np.zeros(POLICY.num_parameters, np.float32))
    kernels = [[0.0] * 8, [0.1] * 8, [1.0] * 8, [0.3] * 8], [[-1.0, 1.0]] * 8
    balancing = [
        layer._replace(kernel=np.array(kernel, np.float32))
        for layer, kernel in zip(layers, kernels, strict=True)
    ]
    made[0] = POLICY.ravel(balancing)
    return made


def _same(found: Any, expected: Any) -> None:
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_episodes_are_those_of_lanes_on_a_host(host: LanesTask, device: Device) -> None:
    thetas = _thetas()
    thetas[2, 1] = np.inf
    found = device.task().evaluator(POLICY)(jax.random.key(3), thetas)
    expected = host.evaluator(POLICY)(jax.random.key(3), thetas)
    _same(found, expected)
    assert found.lengths[0] == LENGTH and found.lengths[2] == 0
    (launch,) = device.launches
    assert (launch["grid_x"], launch["block_x"], launch["name"]) == (1, 256, "episodes")
    assert ".entry episodes" in launch["kernel_data"]


def test_segments_go_on_from_each_other(host: LanesTask, device: Device) -> None:
    explore, thetas = device.task().explorer(POLICY, HORIZON), _thetas()
    reference = host.explorer(POLICY, HORIZON)
    envs = explore.reset(jax.random.key(4), NUM)
    own = reference.reset(jax.random.key(4), NUM)
    for step in range(2):
        found = explore(jax.random.key(step), thetas, envs)
        expected = reference(jax.random.key(step), thetas, own)
        _same(found, expected)
        assert expected.terminated.any() and expected.truncated.any()
        envs, own = found.envs, expected.envs


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_seeds_become_one_launch(host: LanesTask, device: Device, shared: bool) -> None:
    task, seeds = device.task(), 2
    keys = jax.random.split(jax.random.key(0), seeds)
    thetas = np.stack([_thetas(seed) for seed in range(seeds)])
    key = keys[0] if shared else keys
    axis = None if shared else 0
    evaluate, explore = task.evaluator(POLICY), task.explorer(POLICY, HORIZON)
    together = jax.block_until_ready(jax.vmap(evaluate, in_axes=(axis, 0))(key, thetas))

    def segment(key: jax.Array, thetas: Array) -> Segment:
        return explore(key, thetas, explore.reset(key, NUM))

    segments = jax.block_until_ready(jax.vmap(segment, in_axes=(axis, 0))(key, thetas))
    assert device.sizes == [seeds * NUM] * 2
    for seed in range(seeds):
        own = keys[0] if shared else keys[seed]
        _same(jax.tree.map(lambda x: x[seed], together), evaluate(own, thetas[seed]))  # noqa: B023
        _same(jax.tree.map(lambda x: x[seed], segments), segment(own, thetas[seed]))  # noqa: B023


def test_a_state_is_packed_as_on_a_host(host: LanesTask) -> None:
    layout = host.program.layout
    states = jax.vmap(host.program.environment.reset)(jax.random.split(jax.random.key(0), 3))
    bits = gpu.rows(states)
    np.testing.assert_array_equal(bits, layout.pack(states))
    _same(gpu.states(layout, bits), states)


@pytest.mark.slow
def test_a_kernel_is_written_while_jax_traces(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = mjx.make(BODY, 5)
    program = lanes.make(task.environment, task.spec, 1).program  # its sizes are not known yet
    evaluate = GpuTask(program, replace(task.spec, draws=False)).evaluator(Policy((34, 8)))
    traced = jax.jit(evaluate).trace(jax.random.key(0), jnp.zeros((3, 280)))
    assert ".entry episodes" in str(traced.jaxpr)


def test_few_environments_share_more_warps(host: LanesTask, device: Device) -> None:
    assert [gpu.num_warps(num) for num in (4096, 4097, 8192, 8193)] == [8, 4, 4, 2]
    device.task(2).evaluator(POLICY)(jax.random.key(0), _thetas())
    assert device.launches[0]["block_x"] == 64


def test_a_call_lowers_for_cuda(host: LanesTask) -> None:
    spec = replace(host.spec, traceable=True)
    evaluate = GpuTask(host.program, spec).evaluator(POLICY)
    shape = jax.ShapeDtypeStruct((NUM, POLICY.num_parameters), jnp.float32)
    traced = jax.jit(lambda thetas: evaluate(jax.random.key(0), thetas)).trace(shape)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(gpu.TARGET) == 1 and "episodes" in text


def test_lanes_are_on_the_gpu_unless_threads_are_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    task = cartpole.make(LENGTH)
    made = lanes.make(task.environment, task.spec)
    assert isinstance(made, GpuTask) and made.spec.traceable and made.spec.backend == "lanes"
    assert isinstance(lanes.make(task.environment, task.spec, 1), LanesTask)


def test_the_engine_alone_is_timed(host: LanesTask, monkeypatch: pytest.MonkeyPatch) -> None:
    simple = Device(host, Policy((4, 2), output="argmax"))
    monkeypatch.setattr(jax.ffi, "ffi_call", simple.ffi_call)
    stepped = simple.task().bare_stepper(POLICY, _thetas())()
    assert stepped.steps == NUM * LENGTH and stepped.seconds > 0.0
