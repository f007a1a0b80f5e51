"""Kernels for an accelerator: on threads of the host against lanes, and through the assembler."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from epvf.policies.mlp import Policy
from epvf.tasks import cartpole
from epvf.tasks.ant import BODY
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.engines.lanes import LanesTask, kernel, ptx
from epvf.tasks.engines.lanes.kernel import Block
from epvf.tasks.engines.lanes.program import Program
from thread_blocks import Emulated

CARTPOLE = Policy((4, 10, 7, 2), output="argmax")
ANT = Policy((34, 16, 8), activation="relu", output="tanh")


@pytest.fixture(scope="module")
def poles() -> LanesTask:
    task = cartpole.make(20)
    return lanes.make(task.environment, task.spec, 1)


@pytest.fixture(scope="module")
def ant() -> LanesTask:
    task = mjx.make(BODY, 25)
    return lanes.make(task.environment, task.spec, 1)


def _population(policy: Policy, num: int, scale: float = 1.0) -> np.ndarray:
    keys = jax.random.split(jax.random.key(7), num)
    return np.array(jax.vmap(lambda key: policy.init(key, "lecun_uniform", scale))(keys))


def _spread(task: LanesTask, num: int) -> np.ndarray:
    """Policies whose episodes are of many lengths."""
    thetas = _population(CARTPOLE, 300, 2.0)
    lengths = np.asarray(task.evaluator(CARTPOLE)(jax.random.key(0), thetas).lengths)
    return thetas[np.argsort(lengths)[np.linspace(0, len(thetas) - 1, num).astype(int)]]


def _columns(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(rows, -1, -2))


def _episodes(
    task: LanesTask, policy: Policy, thetas: np.ndarray, key: jax.Array, warps: int
) -> tuple[np.ndarray, np.ndarray]:
    num = len(thetas)
    starts = task.evaluator(policy).machine.starts(key, num).rows  # type: ignore[attr-defined]
    ready = np.isfinite(thetas).all(1).astype(np.int32)
    returns, lengths = np.zeros(num, np.float32), np.zeros(num, np.int32)
    sizes = np.array([num, len(starts), task.spec.episode_length], np.int32)
    run = Emulated(task.program, policy, "episodes", warps)
    run(num, _columns(thetas), _columns(starts), ready, sizes, returns, lengths)
    return returns, lengths


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, where products and sums are fused alike on both sides."""
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("warps", [1, 4])
def test_whole_episodes_are_those_of_lanes(poles: LanesTask, warps: int) -> None:
    thetas = _spread(poles, 9)
    thetas[4, 3] = np.nan
    key = jax.random.key(1)
    expected = poles.evaluator(CARTPOLE)(key, thetas)
    returns, lengths = _episodes(poles, CARTPOLE, thetas, key, warps)
    _same(lengths, expected.lengths)
    _same(returns, expected.returns)
    assert len(set(lengths.tolist())) > 2 and lengths[4] == 0 and np.isnan(returns[4])


@pytest.mark.slow
def test_the_ants_episodes_are_those_of_lanes(ant: LanesTask) -> None:
    thetas = _population(ANT, 3)
    expected = ant.evaluator(ANT)(jax.random.key(0), thetas)
    returns, lengths = _episodes(ant, ANT, thetas, jax.random.key(0), 3)
    _same(lengths, expected.lengths)
    _same(returns, expected.returns)


@pytest.mark.parametrize("warps", [1, 3])
def test_a_segment_is_that_of_lanes(poles: LanesTask, warps: int) -> None:
    num, horizon = 5, 60
    thetas, key = _spread(poles, num), jax.random.key(2)
    explore = poles.explorer(CARTPOLE, horizon)
    envs = poles.explorer(CARTPOLE, 7)(key, thetas, explore.reset(key, num)).envs
    expected = explore(key, thetas, envs)
    layout = poles.program.layout
    fresh = explore.machine.starts(key, (horizon, num), observed=False).rows
    sizes = np.array([num, len(fresh), poles.spec.episode_length, horizon], np.int32)
    size = layout.size
    observations = np.zeros((horizon + 1, 4, num), np.float32)
    outputs = np.zeros((horizon, 2, num), np.float32)
    rewards, flags = np.zeros((horizon, num), np.float32), np.zeros((horizon, num), np.int32)
    after = np.zeros((size, num), np.int32)
    steps, total, finished, finished_steps = (
        np.zeros(num, kind) for kind in (np.int32, np.float32, np.float32, np.int32)
    )
    Emulated(poles.program, CARTPOLE, "segment", warps)(
        num,
        _columns(thetas),
        _columns(layout.pack(envs.state)),
        np.asarray(envs.steps, np.int32),
        np.asarray(envs.total, np.float32),
        _columns(fresh),
        sizes,
        observations,
        outputs,
        rewards,
        flags,
        after,
        steps,
        total,
        finished,
        finished_steps,
    )
    _same(observations.transpose(2, 0, 1), expected.observations)
    _same(outputs.transpose(2, 0, 1), expected.outputs)
    _same(rewards.T, expected.rewards)
    _same((flags == kernel.TERMINATED).T, expected.terminated)
    _same((flags == kernel.TRUNCATED).T, expected.truncated)
    assert expected.terminated.any() and expected.truncated.any()
    _same(after.T, layout.pack(expected.envs.state))
    _same(steps, expected.envs.steps)
    _same(total, expected.envs.total)
    over = (flags > 0).any(0)
    _same(finished[over], expected.envs.finished[over])
    _same(finished_steps, np.where(over, expected.envs.finished_steps, 0))


# PTX


def test_a_loop_is_left_when_no_environment_of_the_warp_goes_on(ant: LanesTask) -> None:
    text = ptx.assemble(kernel.episodes(ant.program, ANT, Block(8)))
    assert text.count("vote.sync.any") == 1
    assert "vote.sync" not in ptx.assemble(kernel.episodes(_poles(), CARTPOLE, Block(8)))


def _poles() -> Program:
    task = cartpole.make(40)
    return lanes.make(task.environment, task.spec, 1).program


@pytest.mark.parametrize("write", [kernel.episodes, kernel.segment])
def test_sums_and_quotients_round_as_on_a_host(write) -> None:
    text = ptx.assemble(write(_poles(), CARTPOLE, Block(4)))
    for op in ("mul", "add", "fma", "div"):
        kinds = {word for word in text.split() if word.startswith(f"{op}.") and "f32" in word}
        assert kinds and kinds == {f"{op}.rn.ftz.f32"}
    assert ".extern" not in text


def test_a_room_that_threads_cannot_share_lies_in_memory(poles: LanesTask) -> None:
    large = Policy((4, 256, 256, 2), output="argmax")
    assert ".shared" in kernel_text(poles, CARTPOLE)
    assert ".shared" not in kernel_text(poles, large)


def kernel_text(task: LanesTask, policy: Policy) -> str:
    return ptx.assemble(kernel.episodes(task.program, policy, Block(4)))


def _ptxas() -> str | None:
    """NVIDIA's assembler, of the wheel nvidia-cuda-nvcc or of an installed toolkit."""
    found = importlib.util.find_spec("nvidia")
    for folder in () if found is None else found.submodule_search_locations or ():
        for file in Path(folder).glob("*/bin/ptxas"):
            return str(file)
    return shutil.which("ptxas")


@pytest.mark.slow
@pytest.mark.parametrize("write", [kernel.episodes, kernel.segment])
@pytest.mark.parametrize("name", ["cartpole", "ant"])
def test_nvidias_assembler_takes_it(write, name: str, tmp_path: Path, request) -> None:
    ptxas = _ptxas()
    if ptxas is None:
        pytest.skip("there is no ptxas: pip install nvidia-cuda-nvcc-cu12")
    if name == "ant":
        task, policy = request.getfixturevalue("ant"), Policy((34, 64, 64, 8))
    else:
        task, policy = request.getfixturevalue("poles"), CARTPOLE
    file = tmp_path / "kernel.ptx"
    file.write_text(ptx.assemble(write(task.program, policy, Block(8))))
    command = [ptxas, "-arch", "sm_90", "-o", str(tmp_path / "kernel.cubin"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
