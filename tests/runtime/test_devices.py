"""Several devices: the same rollouts as one, and a part of the memory each.

A process has as many devices as it was started with, so these programs run in processes of their
own, which print what they found.
"""

import json
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.methods.registry import METHODS
from epvf.runs.metrics import read_metrics
from epvf.runtime import devices
from epvf.runtime.devices import mesh_of
from epvf.training.prepare import prepare
from probes import recorded, resumed

BEGIN = """
import json
import sys
import jax
import jax.numpy as jnp
import numpy as np
from epvf.config.presets import preset
from epvf.training.loop import init_state, iterate
from epvf.training.prepare import prepare

jax.config.update("jax_numpy_rank_promotion", "raise")


def train(config, devices):
    setup = prepare(config, devices=devices)
    return list(iterate(setup))


def thetas(report):
    return np.asarray(report.state.learner.progress.best_theta)
"""


def run(program, *arguments, devices=8):
    """What a program prints, in a process with so many devices."""
    paths = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("src", "tests")]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    # what is compiled runs but once or a few times; not by XLA's older emitters, as elsewhere: of
    # several seeds on a device they make other last digits than of one
    quick = "--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=0"
    flags = f"--xla_force_host_platform_device_count={devices} {quick}"
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", BEGIN + program, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


ROLLOUTS = """
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import drawn, perturbed
from epvf.runtime.devices import mesh_of, spread_evaluate, spread_explore
from epvf.tasks import make

mesh = mesh_of("8", 1, 16)
setup = prepare(preset("cartpole", "debug"))
key = jax.random.key(3)
centre = jnp.zeros((1, setup.policy.num_parameters))
lazy = perturbed(PerturbationConfig("gaussian", 0.5), key, centre, 16)
same, where = [], []


def compare(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    # an environment whose first episode goes on has no return yet
    same.extend(np.array_equal(a, b, equal_nan=a.dtype == np.float32) for a, b in pairs)


for slots in (None, 4):
    task = make("cartpole", num_slots=slots, episode_length=60)
    one = task.evaluator(setup.policy)
    eight = jax.jit(spread_evaluate(mesh, one, True))
    for population in (drawn(lazy), lazy):
        ours, theirs = eight(key, population), one(key, population)
        compare(ours, theirs)
        where.append(len(ours.returns.sharding.device_set))
explore = task.explorer(setup.policy, 7)
envs = explore.reset(key, 16)
ours = jax.jit(spread_explore(mesh, explore, 7, True))(key, drawn(lazy), envs)
theirs = explore(key, drawn(lazy), envs)
compare(ours, theirs)
print(json.dumps({"same": same, "where": where}))
"""


@pytest.mark.slow
def test_rollouts_are_those_of_one_device_to_the_bit():
    found = run(ROLLOUTS)
    assert len(found["same"]) > 15 and all(found["same"])
    assert set(found["where"]) == {8}


TRAINING = """
import re
from dataclasses import dataclass
from epvf.methods.registry import METHODS
from epvf.training import compiled
from probes import FormulaTask, config_of

original, programs = compiled.compile_announced, []
compiled.compile_announced = lambda *given: programs.append(original(*given)) or programs[-1]


@dataclass(frozen=True)
class Formula(FormulaTask):
    rows_apart: bool = True


def trained(config, task, devices):
    setup = prepare(config, task, devices=devices)
    reports = list(iterate(setup))
    state = jax.device_get(reports[-1].state.learner)
    centre = np.asarray(setup.search.centre(jax.tree.map(lambda x: x[0], state)))
    return [r for report in reports for r in report.records], centre, reports[-1].state.learner


found = {}
for case, (method, changes) in json.loads(sys.argv[1]).items():
    task, config = Formula(lambda t: jnp.sin(3.0 * t).sum(-1)), config_of(method)
    if METHODS[method].segment(config.method) is not None:
        task, config = None, preset("cartpole", "debug", method)
    config = config.replace({"iterations": 3, "num_envs": 64, "policy.hidden_sizes": [4]} | changes)
    (records, theta, _), (others, other, state) = (trained(config, task, n) for n in "18")
    told = ("rollout", "steps", "eval")
    first = [{k: v for k, v in r[0].items() if k.startswith(told)} for r in (records, others)]
    shapes = re.findall(r"[a-z]\\w*\\[([0-9,]+)\\]", programs[-1].as_text())
    shapes = {tuple(map(int, dims.split(","))) for dims in shapes}
    found[case] = {
        "first": first,
        "apart": float(np.abs(theta - other).max() / np.abs(theta).max()),
        "where": sorted({len(x.sharding.device_set) for x in jax.tree.leaves(state)}),
        "rows": sorted({x[-2] for x in shapes if len(x) > 1 and x[-1] == theta.size}),
    }
print(json.dumps(found))
"""

SEARCHES = [name for name in METHODS.names() if METHODS[name].build is not None]

BESIDES = {
    "random batches": ("epvf", {"buffer.size": 256, "value_update.batch_size": 96}),
    "a ring that wraps": (
        "epvf",
        {
            "buffer.size": 104,
            "value_update.batch_size": 40,
            "value_update.optimizer": "sgd",
            "value.hidden_sizes": [],
            "value.inputs": "standardised",
        },
    ),
    "fewer pairs than weights": ("ridge", {"policy.hidden_sizes": [16]}),
}
"""What differs by settings: what the buffer keeps, and how V is fitted to it."""

SHARES = {"ridge-replay": {32}, "random batches": {32}}
"""Rows of a buffer of 256 that a device has."""


@pytest.fixture(scope="module")
def on_both():
    """What training by one device and by eight have to do with each other, by case."""
    there = find_spec("evosax") is not None
    methods = [name for name in SEARCHES if there or METHODS[name].needs is None]
    cases: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in methods}
    return run(TRAINING, json.dumps(cases | BESIDES))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*SEARCHES, *BESIDES])
def test_training_is_that_of_one_device(case, on_both):
    if case not in on_both:
        pytest.skip("the extra baselines is not installed")
    found = on_both[case]
    one, eight = found["first"]
    assert one == pytest.approx(eight, rel=1e-6)
    # sums over policies are taken in another order
    assert found["apart"] < 1e-4
    assert found["where"] == [8]
    # of 64 policies a device has eight, or an eighth of the weights of all
    whole = {n for n in found["rows"] if n >= 32} - SHARES.get(case, set())
    assert 8 in found["rows"] and not whole


SEEDS = """
config = preset("cartpole", "debug", "matched-openes").replace(
    {"iterations": 3, "num_seeds": 4, "task.episode_length": 100})
one, four, eight = (train(config, n) for n in ("1", "4", "8"))
print(json.dumps({
    "same": [float(np.abs(thetas(one[-1]) - thetas(x[-1])).max()) for x in (four, eight)],
    "records": [[r["rollout/episode_return"] for report in x for r in report.records]
                for x in (one, four, eight)],
}))
"""


@pytest.mark.slow
def test_seeds_are_shared_out_first(tmp_path):
    found = run(SEEDS)
    one, four, eight = found["records"]
    # no sum is over the policies of more than one device
    assert found["same"][0] == 0.0 and one == four
    assert one == pytest.approx(eight, rel=1e-5)


MEMORY = """
from epvf.training import compiled


class Compiled(Exception):
    pass


def compile_only(*given):
    raise Compiled(original(*given).memory_analysis())


original, compiled.compile_announced = compiled.compile_announced, compile_only
found = []
for populations, batch in ((1, 16384), (4, 4096)):
    config = preset("cartpole", "debug").replace({
        "num_envs": 16384, "buffer.size": populations * 16384, "value_update.batch_size": batch,
        "policy.hidden_sizes": [64], "eval.interval": 5})
    sizes = []
    for devices in ("1", "8"):
        setup = prepare(config, devices=devices)
        try:
            next(compiled.steps(setup, init_state(setup), lambda message: None))
        except Compiled as told:
            needs = told.args[0]
        sizes.append([needs.argument_size_in_bytes, needs.temp_size_in_bytes])
    theta = 16384 * setup.policy.num_parameters * 4
    found.append({"sizes": sizes, "buffer": populations * theta, "theta": theta})
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_device_holds_its_part_of_the_policies():
    for found in run(MEMORY):
        (arguments, temporary), (argument_part, temporary_part) = found["sizes"]
        assert arguments > found["buffer"] and temporary > found["theta"]
        assert argument_part < arguments / 7.5
        assert temporary_part < temporary / 7.0


CHECKPOINTS = """
from pathlib import Path
from epvf.runs.checkpoints import Checkpoints

folder = Path(sys.argv[1])
config = preset("cartpole", "debug", "matched-openes").replace({"iterations": 2})
devices = sys.argv[2]
setup = prepare(config, devices=devices)
kept = Checkpoints(folder, keep=2)
like = jax.eval_shape(lambda: init_state(setup).learner)
state = kept.restore(like)
if state is None:
    report = list(iterate(setup))[-1]
    kept.save(report.state)
    state = report.state
else:
    list(iterate(prepare(config.replace({"iterations": 3}), devices=devices), state))
leaves = jax.tree.leaves(kept.restore(like).learner)
print(json.dumps([float(np.asarray(x).astype(np.float64).sum()) for x in leaves]))
"""


@pytest.mark.slow
def test_a_checkpoint_is_restored_on_any_number_of_devices(tmp_path):
    written = run(CHECKPOINTS, str(tmp_path), "8")
    assert run(CHECKPOINTS, str(tmp_path), "1", devices=1) == written
    assert run(CHECKPOINTS, str(tmp_path), "2", devices=2) == written


@pytest.mark.slow
def test_a_checkpoint_of_another_kind_of_device_is_restored(tmp_path):
    run = tmp_path / "run"
    config = preset("cartpole", "debug").replace({"iterations": 2})
    recorded(run, config)
    files = list(run.glob("checkpoints/*/state/_sharding"))
    assert files
    for file in files:
        here = file.read_text()
        file.write_text(here.replace("cpu:0", "cuda:0").replace("TFRT_CPU_0", "cuda:0"))
        assert file.read_text() != here
    assert resumed(run, {"iterations": 3}).status == "finished"
    assert [r["steps/update"] for r in read_metrics(run / "metrics.jsonl")] == [1, 2, 3]


@pytest.fixture
def alone():
    """A mesh of one device, on which the programs of many run."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), (devices.SEEDS, devices.ROWS))


def test_a_buffer_is_written_in_parts(alone, monkeypatch):
    monkeypatch.setattr(devices, "DRAWN", 4)  # of ten places, so that the last parts overlap
    rooms, population = jnp.zeros((10, 2)), jnp.arange(1.0, 15.0).reshape(7, 2)
    rows = np.array([-1, 3, -1, -1, -1, -1, -1, 6, 0, -1])
    written = np.asarray(
        jax.jit(partial(devices.draw_into, alone))(rooms, population, jnp.asarray(rows))
    )
    np.testing.assert_array_equal(written[rows >= 0], population[rows[rows >= 0]])
    assert not written[rows < 0].any()


def test_sums_over_rows_count_each_as_often_as_it_is_asked_for(alone):
    stored = {"x": jnp.arange(6.0), "y": jnp.arange(12.0).reshape(6, 2)}
    rows = jnp.array([5, 0, 0, 3, 5, 5, 1])

    def function(part, counted, factor):
        x = jnp.where(counted, part["x"], 0.0)
        return x.sum() * factor, jnp.where(counted[:, None], part["y"], 0.0).sum(0)

    total, columns = jax.jit(partial(devices.sum_of_rows, alone), static_argnums=2)(
        stored, rows, function, jnp.float32(2.0)
    )
    assert total == 2.0 * stored["x"][rows].sum()
    np.testing.assert_array_equal(columns, stored["y"][rows].sum(0))


def test_what_cannot_be_shared_is_refused(refused_devices):
    for asked, message in (
        ("9999", "devices is 9999, but there are"),
        ("0", "a number of at least 1, or all"),
        ("some", "a number of at least 1, or all"),
    ):
        with pytest.raises(UserError, match=message):
            mesh_of(asked, 1, 64)
    with pytest.raises(UserError, match="num_envs 100 cannot be shared out among 8 devices; use 9"):
        refused_devices(preset("cartpole", "debug").replace({"num_envs": 100}))
    with pytest.raises(UserError, match="engine 'native' steps on the host"):
        refused_devices(preset("ant", "debug").replace({"task.backend": "native"}))
    assert mesh_of("1", 1, 64) is None


@pytest.fixture
def refused_devices(monkeypatch):
    """Prepares a run on eight devices, where there need not be any."""
    there = jax.local_devices() * 8
    monkeypatch.setattr(jax, "local_devices", lambda: there)
    return lambda config: prepare(config, devices="8")
