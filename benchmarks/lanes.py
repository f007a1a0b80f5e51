"""How fast lanes roll out the Ant, next to MuJoCo's C engine.

    python benchmarks/lanes.py [--num-envs 1024] [--repeats 5] [--threads 1] [--width W] [--json]
    python benchmarks/lanes.py --ratios [--seconds 50]

The population is that of `epvf bench ant --method epvf`. Both engines take turns in one process;
since other processes may share the processors, rates are per second of the threads' own time
(`cpu`), with those by the wall clock beside them. `closed` is Evaluate, `segment` is Explore with
32 steps a call, `bare` the engine alone. Starting is timed in processes of their own, first with an
empty cache, then with what the first one kept; the compiler of numba has kept its code before.

`--ratios` tells, within half a minute more than so many seconds on an idle machine, how many times
faster than `native` a thread of lanes is with the host's registers and with code for AVX2, and how
many times faster two threads are than one: closed loops in turns, per second of the threads' own
time and of the wall clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from epvf.bench.learning import with_num_envs
from epvf.config.presets import preset
from epvf.policies.mlp import Policy
from epvf.policies.population import drawn
from epvf.tasks import make
from epvf.tasks.ant import BODY
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.engines.lanes import LanesTask, objects
from epvf.tasks.engines.lanes.program import Program
from epvf.training.loop import init_state
from epvf.training.prepare import prepare

HORIZON = 32

START = """
import time
begin = time.perf_counter()
import numpy as np
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.ant import BODY
imported = time.perf_counter()
policy = Policy((34, 64, 64, 8))
make("ant", "lanes").evaluator(policy)(None, np.zeros((16, policy.num_parameters), np.float32))
end = time.perf_counter()
print(imported - begin, end - imported)
"""


def population(num_envs: int) -> tuple[Policy, np.ndarray]:
    """Policies of a run's first iteration."""
    task = make("ant", "native")
    config = with_num_envs(preset("ant", "tuned", "epvf"), num_envs)
    setup = prepare(config, task)
    state = jax.tree.map(lambda leaf: leaf[0], init_state(setup).learner)
    return setup.policy, np.asarray(drawn(jax.jit(setup.search.propose)(state, 0)))


def timed(run: Callable[[], int]) -> tuple[float, float]:
    """Env steps a second of the threads' time, and of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    steps = run()
    return steps / (time.process_time() - cpu), steps / (time.perf_counter() - wall)


def closed(task: Any, policy: Policy, thetas: np.ndarray) -> Callable[[], int]:
    """Whole episodes."""
    evaluate = task.evaluator(policy)
    return lambda: int(evaluate(None, thetas).lengths.sum())


def segments(task: Any, policy: Policy, thetas: np.ndarray) -> Callable[[], int]:
    """Segments, as many as make up some seconds."""
    explore = task.explorer(policy, HORIZON)
    envs = [explore.reset(jax.random.key(0), len(thetas))]

    def run() -> int:
        for _ in range(8):
            envs[0] = explore(None, thetas, envs[0]).envs
        return 8 * HORIZON * len(thetas)

    return run


def bare(task: Any, policy: Policy, thetas: np.ndarray) -> Callable[[], int]:
    """The engine alone."""
    step = task.bare_stepper(policy, thetas)
    return lambda: int(step().steps)


def measure(num_envs: int, repeats: int, threads: int, width: int | None) -> dict[str, Any]:
    """Medians over turns, and the medians of their ratios."""
    policy, thetas = population(num_envs)
    reference = mjx.make(BODY)
    tasks = {
        "native": make("ant", "native", num_threads=threads),
        "lanes": lanes.make(reference.environment, reference.spec, threads, width),
    }
    out: dict[str, Any] = {}
    for name, build in {"closed": closed, "segment": segments, "bare": bare}.items():
        runs = {engine: build(task, policy, thetas) for engine, task in tasks.items()}
        for run in runs.values():
            run()
        rates = {engine: [] for engine in runs}
        for _ in range(repeats):
            for engine, run in runs.items():
                rates[engine].append(timed(run))
        cpu = {engine: np.array(pairs)[:, 0] for engine, pairs in rates.items()}
        wall = {engine: np.array(pairs)[:, 1] for engine, pairs in rates.items()}
        out[name] = {
            "cpu": {engine: round(float(np.median(rate))) for engine, rate in cpu.items()},
            "wall": {engine: round(float(np.median(rate))) for engine, rate in wall.items()},
            "ratio": round(float(np.median(cpu["lanes"] / cpu["native"])), 2),
        }
    task = tasks["lanes"]
    assert isinstance(task, LanesTask)
    out["mean_length"] = float(tasks["lanes"].evaluator(policy)(None, thetas).lengths.mean())
    out["object_bytes"] = task.program.code.size
    out["width"] = task.program.target.lanes.width
    out["cpu"] = objects.target().cpu
    return out


def ratios(seconds: float) -> dict[str, Any]:
    """Medians over turns, as many as fit, of rates relative to those of the same turn."""
    policy, thetas = population(4096)
    reference = mjx.make(BODY)
    host = lanes.make(reference.environment, reference.spec, 1)
    program = host.program
    narrow = Program(program.environment, program.spec, objects.target(8, "haswell"))
    runs = {
        "native": closed(make("ant", "native", num_threads=1), policy, thetas[:256]),
        "lanes": closed(host, policy, thetas),
        "avx2": closed(LanesTask(narrow, 1), policy, thetas[:2048]),
        "two threads": closed(LanesTask(program, 2), policy, thetas),
    }
    for run in runs.values():
        run()
    begin, turns = time.perf_counter(), []
    while not turns or time.perf_counter() - begin < seconds * len(turns) / (len(turns) + 1):
        turns.append([timed(run) for run in runs.values()])
    rates = dict(zip(runs, np.array(turns).transpose(1, 0, 2), strict=True))
    out: dict[str, Any] = {
        name: dict(zip(("cpu", "wall"), np.median(rate, axis=0).round().tolist(), strict=True))
        for name, rate in rates.items()
    }
    for name, one, other in (
        ("lanes / native", "lanes", "native"),
        ("avx2 / native", "avx2", "native"),
        ("two threads / one", "two threads", "lanes"),
    ):
        median = np.median(rates[one] / rates[other], axis=0)
        out[name] = dict(zip(("cpu", "wall"), median.round(2).tolist(), strict=True))
    return out | {"turns": len(turns), "width": program.target.lanes.width}


def start() -> dict[str, Any]:
    """Seconds from nothing to the end of the first episodes, imports apart."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            env = os.environ | {"XDG_CACHE_HOME": folder}
            told = subprocess.run(
                [sys.executable, "-c", START], env=env, capture_output=True, text=True, check=True
            )
            imports, rest = map(float, told.stdout.split())
            out[name] = {"imports": round(imports, 2), "rest": round(rest, 2)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--ratios", action="store_true")
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.ratios:
        result = ratios(asked.seconds)
    else:
        result = measure(asked.num_envs, asked.repeats, asked.threads, asked.width)
        result["start"] = start()
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
