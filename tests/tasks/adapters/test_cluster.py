"""Rows rolled out by whoever is there: the same to the bit, whatever is lost on the way."""

import json
import os
import subprocess
import sys
import types
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.policies import host_noise
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import Recipe, perturbed
from epvf.tasks import make
from epvf.tasks.adapters import cluster
from epvf.tasks.adapters.cluster import Engine, connect, evaluate_rows, explore_rows, spread
from epvf.training.prepare import make_policy

ROOT = Path(__file__).resolve().parents[3]
KEY = jax.random.key(5)


def _of(task_name, num, backend="native", **policies):
    """A task, its engine, the policy of its preset, and an undrawn population."""
    task = make(task_name, backend, episode_length=20, num_threads=1)
    engine = Engine(task_name, backend, 20, 1)
    policy = make_policy(preset(task_name, "debug").replace(policies), task.spec)
    centre = np.asarray(policy.init(jax.random.key(1), "lecun_normal", 1.0))[None]
    lazy = jax.tree.map(np.asarray, perturbed(PerturbationConfig(floor=0.1), KEY, centre, num))
    return task, engine, policy, lazy


def _some(envs, begin, end):
    return jax.tree.map(lambda x: np.asarray(x)[begin:end], envs)


def _words():
    return np.asarray(jax.random.key_data(KEY))


ENGINES = [
    ("ant", "native"),
    ("hopper", "native"),
    pytest.param("ant", "lanes", marks=pytest.mark.slow),
    pytest.param("hopper", "lanes", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), ENGINES)
def test_some_rows_do_as_they_do_in_the_midst_of_all(name, backend):
    task, engine, policy, lazy = _of(name, 8, backend)
    thetas = host_noise.draw(lazy, 1)
    whole = task.evaluator(policy)(KEY, thetas)
    parts = [
        evaluate_rows((engine, policy, _words(), 8, (lazy,)), (begin, end, None))
        for begin, end in ((0, 3), (3, 8))
    ]
    given = evaluate_rows((engine, policy, _words(), 8, ()), (3, 8, thetas[3:]))
    for i, array in enumerate(whole):
        if array is not None:
            np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), array)
            np.testing.assert_array_equal(given[i], array[3:])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), ENGINES)
def test_some_environments_go_on_as_they_do_in_the_midst_of_all(name, backend):
    task, engine, policy, lazy = _of(name, 8, backend)
    thetas, horizon = host_noise.draw(lazy, 1), 15
    explore = task.explorer(policy, horizon)
    envs = explore(KEY, thetas, explore.reset(KEY, 8)).envs  # beyond the end, on the second call
    whole = explore(KEY, thetas, envs)
    common = (engine, policy, _words(), 8, (lazy,), horizon)
    parts = [
        explore_rows(common, (begin, end, None, _some(envs, begin, end)))
        for begin, end in ((0, 3), (3, 8))
    ]
    joined = cluster._joined(parts)
    for ours, theirs in zip(jax.tree.leaves(joined), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_populations_of_several_seeds_are_drawn_across_their_borders():
    _, engine, _, lazy = _of("hopper", 8)
    both = np.concatenate([host_noise.draw(lazy, 1)] * 2)
    drawn = cluster._policies(engine, (lazy, lazy), np.arange(5, 12))
    np.testing.assert_array_equal(drawn, both[5:12])


class _Counting:
    """Stands for a cluster of 1000 workers; remembers what would be sent."""

    num_workers = 1000
    threads = 1
    sent = 0

    def parts_each(self, work):
        return cluster.PARTS

    def share_out(self, work, common, parts):
        self.sent += cluster.num_bytes(common) + cluster.num_bytes(parts)
        zero = np.zeros(0, np.float32)
        return [cluster.Evaluation(zero, zero.astype(np.int32)) for _ in parts]


def test_an_iteration_of_65536_policies_takes_less_than_100_kb_there():
    task, _, policy, lazy = _of("ant", 65_536, **{"policy.hidden_sizes": [64, 64]})
    workers = _Counting()
    evaluate = spread(task, workers).evaluator(policy)
    evaluate(KEY, Recipe((lazy,), np.zeros((0, policy.num_parameters), np.float32)))
    assert lazy.centres.nbytes == 4 * 6920 <= workers.sent < 100_000
    # what nobody has said how to draw is sent itself
    evaluate(KEY, np.zeros((100, policy.num_parameters), np.float32))
    assert workers.sent > 100 * 4 * policy.num_parameters


def test_an_engine_that_cannot_be_asked_for_rows_is_refused():
    with pytest.raises(UserError, match="cannot be spread over a cluster; use backend native"):
        spread(make("cartpole"), _Counting())


def test_a_cluster_of_another_python_is_told_from_none(monkeypatch):
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
        "This process on node 1.2.3.4 was started with: ..."
    )

    def init(**how):
        raise RuntimeError(said)

    ray = types.SimpleNamespace(init=init, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(UserError, match="at auto has another Python or Ray than this machine"):
        connect("auto", None)
    for where in ("localhost:1", "ray://localhost:1"):
        with pytest.raises(UserError, match="nobody listens at localhost:1: "):
            connect(where, None)
    said = "Could not find any running Ray instance"
    with pytest.raises(UserError, match="there is no cluster at auto: Could not find any"):
        connect("auto", None)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"a cluster needs ray: pip install 'epvf\[ray\]'"):
        connect("local:2", None)


def test_what_ray_meets_is_not_printed_among_results(capsys):
    ray = _ray_at_once()
    driver = types.SimpleNamespace(print_to_stdstream=lambda data, ignore_prefix: print(data))
    ray._private = types.SimpleNamespace(worker=driver)
    cluster._silence(ray)
    driver.print_to_stdstream({"lines": ["A worker died"]}, ignore_prefix=False)
    assert not capsys.readouterr().out
    cluster._silence(_ray_at_once())  # another version, which need not have it


def test_what_workers_call_is_sent_to_them_once():
    ray = _ray_at_once()
    made, remote = [], ray.remote

    def counted(function):
        made.append(function)
        return remote(function)

    ray.remote = counted
    there = cluster.Cluster(ray, 1)
    for _ in range(3):
        there.share_out(_quick, (Engine("ant", "native", 9, 1),), [0])
    assert len(made) == 1


BEGIN = """
import json
from epvf.errors import UserError
from epvf.tasks.adapters.cluster import connect
"""


def run(*command):
    """What a program prints last, in a process of its own: Ray leaves open what tests forbid."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    paths = [str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)  # Ray tells nothing there, whatever was lost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "engine"), [("matched-openes", "native"), ("psvf", "native"), ("psvf", "lanes")]
)
def test_a_run_is_the_same_though_workers_and_machines_are_lost(method, engine):
    script = str(ROOT / "benchmarks" / "cluster_losses.py")
    options = ["--method", method, "--engine", engine, "--kills", "2", "--machines", "1"]
    found = run(script, *options)
    assert found["same"] and found["records"] >= 4
    assert found["workers"] == 2 and found["machines"] == 1 and not found["left"]


def test_what_is_done_in_no_time_is_cut_into_fewer_parts():
    there = cluster.Cluster(types, 1)
    assert there.parts_each(evaluate_rows) == cluster.PARTS
    for seconds, parts in ((0.1, 1), (0.5, 2), (5.0, cluster.PARTS)):
        there._took[evaluate_rows] = seconds
        assert there.parts_each(evaluate_rows) == parts
        assert there.parts_each(explore_rows) == cluster.PARTS


class _Done(int):
    """An answer, and the reference to it."""


def _ray_at_once():
    """Stands for Ray, with one worker that computes at once."""

    def remote(function):
        call = types.SimpleNamespace(remote=lambda *given: _Done(function(*given)))
        return types.SimpleNamespace(options=lambda **how: call)

    ray: Any = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayError=OSError)
    ray.put = ray.get = lambda given: given
    ray.wait = lambda refs, timeout: (refs, [])
    ray.cluster_resources = dict
    ray.remote = remote
    return ray


def _quick(common, part):
    return part + 10


def test_work_of_a_new_kind_may_take_as_long_as_the_first():
    there = cluster.Cluster(_ray_at_once(), 1)
    assert there.share_out(_quick, (Engine("ant", "native", 9, 1),), [0, 1, 2]) == [10, 11, 12]
    waited = {}
    for work in (_quick, evaluate_rows):  # which a worker may have to compile first
        usual = there._durations.get(work, deque())
        waited[work] = cluster._Share(deque(), {}, {}, [], usual).patience
    assert waited == {_quick: cluster.PATIENCE, evaluate_rows: cluster.FIRST_PATIENCE}


HANGS = """
import os
import sys
import time
import epvf.tasks.adapters.cluster as own

own.PATIENCE, own.FIRST_PATIENCE = 2.0, 60.0
folder = sys.argv[1]


def work(common, part):
    open(f"{folder}/{part}-{os.getpid()}", "w").close()
    if part == 1 and len([name for name in os.listdir(folder) if name[0] == "1"]) == 1:
        time.sleep(3600)
    return part + 10


cluster = connect("local:1", None)
found = cluster.share_out(work, (own.Engine("ant", "native", 9, 1),), [0, 1, 2])
print(json.dumps([found, sorted(os.listdir(folder))]))
"""


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up(tmp_path):
    found, done = run("-c", BEGIN + HANGS, str(tmp_path))
    assert found == [10, 11, 12]
    # by two workers, of which the first one is gone
    assert [name[0] for name in done] == ["0", "1", "1", "2"]
    assert done[1] != done[2]


REFUSED = """
def refused(call):
    try:
        call()
    except UserError as error:
        return str(error)


said = [refused(lambda: connect(where, None)) for where in ("auto", "local:x", "nowhere")]
cluster = connect("local:1", None)
import epvf.tasks.adapters.cluster as own
said.append(refused(lambda: cluster.share_out(
    own.evaluate_rows, (own.Engine("ant", "native", 9, 1, "0"), None, None, 1, ()), [(0, 1, 0)])))
said.append(refused(lambda: cluster.share_out(
    own.evaluate_rows, (own.Engine("nosuch", "native", 9, 1), None, None, 1, ()), [(0, 1, 0)])))
there = [(m.cpus, m.cpu) for m in own.machines(cluster)]
print(json.dumps([*said, there, own.describe().cpu]))
"""


@pytest.mark.slow
def test_clusters_that_are_not_there_or_of_another_kind_are_refused():
    nowhere, number, address, version, task, machines, cpu = run("-c", BEGIN + REFUSED)
    assert machines == [[1, cpu]] and cpu
    assert "there is no cluster at auto" in nowhere
    assert "say how many workers: local:4" in number
    assert "must be local:N, auto, HOST:PORT or ray://HOST:PORT" in address
    assert "but this is 0; install the same everywhere" in version
    assert "unknown task 'nosuch'" in task
