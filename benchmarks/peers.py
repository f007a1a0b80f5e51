"""Rolling out many Ants, each with a policy of its own: ours beside what one would use instead.

    python benchmarks/peers.py [--num-envs 1024] [--turns 3] [--threads 2] [--seconds 60] [--json]

All take turns in one process, on the same processors; env steps per second of the wall clock, the
median over the turns. The policies are 34-64-64-8, those of `epvf bench ant --method epvf`.

    lanes, native, mjx     `Evaluate`: whole episodes, with policies, observations, rewards, ends
    batch, bare            `mujoco.batch` stepping as many simulations with given controls: no
                           policy, no observation, no reward
    rollout                `mujoco.rollout.rollout`, likewise, states returned
    async                  Gymnasium's AsyncVectorEnv of the same Ant, policies in batched numpy
    envpool                EnvPool's Ant-v4 where it is installed: Gymnasium's Ant, five physics
                           steps an env step; policies (27-64-64-8) in batched numpy. Its rate is in
                           physics steps, for the paper's Ant makes one an env step

Compiling and starting processes is not counted, for any of them.

With `--seconds`, then V(s, θ) (`epvf train ant`), Brax's PPO and its SAC train in turn, each in a
process of its own on all processors, until an unperturbed 850 or for so long: by the wall clock
from the process' start, imports, compilation and evaluations included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores belong to the workers

import jax
import mujoco
import numpy as np
from async_vector_env import act, run_async
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from lanes import population
from mujoco import rollout

from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.adapters.to_gymnasium import AntEnv
from epvf.tasks.ant import model

SECONDS = 1.0
"""How long each is repeated in a turn, at least."""
OPEN_STEPS = 100
ENVPOOL_STEPS, ENVPOOL_SKIP = 50, 5
ASYNC_POLICIES = 64
SOLVED = 850.0
LEARNERS = {
    "V(s, theta)": ["--eval.interval", "25"],
    "PPO (Brax)": ["--method", "ppo"],
    "SAC (Brax)": ["--method", "sac"],
}
"""What `epvf train ant` is told."""

Run = Callable[[], int]


def ours(backend: str, policy: Policy, thetas: np.ndarray, threads: int) -> Run:
    """Whole episodes by one of our engines."""
    options = {} if backend == "mjx" else {"num_threads": threads}
    evaluate = make("ant", backend, **options).evaluator(policy)
    key = jax.random.key(0)
    return lambda: int(np.asarray(evaluate(key, thetas).lengths).sum())


def bare(policy: Policy, thetas: np.ndarray, threads: int) -> Run:
    """`mujoco.batch` alone."""
    step = make("ant", "native", num_threads=threads).bare_stepper(policy, thetas)
    return lambda: int(step().steps)


def open_loop(num: int, threads: int) -> Run:
    """`mujoco.rollout` with random controls."""
    ant = model()
    data = [mujoco.MjData(ant) for _ in range(threads)]
    first = np.zeros((num, mujoco.mj_stateSize(ant, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    mujoco.mj_getState(ant, data[0], first[0], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    first[:] = first[0]
    controls = np.random.default_rng(0).uniform(-1.0, 1.0, (num, OPEN_STEPS, ant.nu))

    def run() -> int:
        rollout.rollout(ant, data, first, controls, persistent_pool=True)
        return num * OPEN_STEPS

    return run


def envpool(num: int, threads: int) -> Run | None:
    """EnvPool's Ant; None where it is not installed."""
    try:
        import envpool as library
    except (ImportError, OSError) as error:  # its wheels lack files at times
        print(f"envpool is left out: {error}")
        return None
    envs = library.make("Ant-v4", env_type="gymnasium", num_envs=num, num_threads=threads)
    observations, _ = envs.reset()
    policy = Policy((observations.shape[1], 64, 64, 8))
    draws = np.random.default_rng(0).standard_normal((num, policy.num_parameters))
    layers = policy.unravel(0.1 * draws.astype(np.float32))
    seen = [observations]

    def run() -> int:
        for _ in range(ENVPOOL_STEPS):
            seen[0] = envs.step(act(layers, seen[0].astype(np.float32)))[0]
        return num * ENVPOOL_STEPS * ENVPOOL_SKIP

    return run


def asynchronous(thetas: np.ndarray, workers: int) -> tuple[Run, Callable[[], None]]:
    """Gymnasium's vector environment, and what ends its processes."""
    envs = AsyncVectorEnv(
        [partial(AntEnv, 1000)] * workers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP
    )

    def run() -> int:
        start = time.perf_counter()
        _, rate = run_async(envs, thetas[:ASYNC_POLICIES])
        return round(rate * (time.perf_counter() - start))

    return run, envs.close


def rate(run: Run) -> float:
    """Env steps per second."""
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        steps += run()
    return steps / (time.perf_counter() - start)


def measure(num: int, turns: int, threads: int) -> dict[str, Any]:
    """Medians, and how many times as many lanes do."""
    policy, thetas = population(num)
    vector, close = asynchronous(thetas, threads)
    runs: dict[str, Run | None] = {
        "lanes": ours("lanes", policy, thetas, threads),
        "native": ours("native", policy, thetas, threads),
        "mjx": ours("mjx", policy, thetas, threads),
        "batch, bare": bare(policy, thetas, threads),
        "rollout": open_loop(num, threads),
        "async": vector,
        "envpool": envpool(num, threads),
    }
    there = {name: run for name, run in runs.items() if run is not None}
    rates: dict[str, list[float]] = {name: [] for name in there}
    try:
        for run in there.values():
            run()
        for _ in range(turns):
            for name, run in there.items():
                rates[name].append(rate(run))
    finally:
        close()
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    times = {
        name: float(np.median(np.divide(rates["lanes"], values))) for name, values in rates.items()
    }
    return {"num_envs": num, "threads": threads, "steps_per_second": medians, "lanes_times": times}


def learned(options: list[str], seconds: float) -> dict[str, Any]:
    """What a learner reached within so many seconds, and when it was at 850, if it was."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "epvf", "train", "ant", *options, "--out", str(run)]
        start = time.perf_counter()
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen([*command, "--seed", "0"], stdout=log, stderr=log)
        best = {"best": None, "env_steps": 0, "seconds_to_850": None}
        try:
            while process.poll() is None and time.perf_counter() - start < seconds:
                time.sleep(0.2)
                best |= _reached(run / "metrics.jsonl")
                if best["best"] is not None and best["best"] >= SOLVED:
                    best["seconds_to_850"] = round(time.perf_counter() - start, 1)
                    break
        finally:
            process.kill()  # one that is asked to end compiles to the end first
            process.wait()
        if process.returncode > 0 and best["best"] is None:
            best["failed"] = (Path(folder) / "log").read_text()[-200:]
    return best


def _reached(file: Path) -> dict[str, Any]:
    """The best unperturbed return in a run's records, and the env steps that were made."""
    lines = file.read_text().splitlines() if file.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    returns = [record.get("eval/episode_return") for record in records]
    found = [value for value in returns if value is not None]
    steps = records[-1]["steps/env"] if records else 0
    return {"best": max(found, default=None), "env_steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=0.0, help="each learner's; 0: none learns")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.num_envs, asked.turns, asked.threads)
    if asked.seconds > 0:
        result["learners"] = {
            name: learned(options, asked.seconds) for name, options in LEARNERS.items()
        }
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result["steps_per_second"].items():
        print(f"{name:12s} {value:12,.0f} env steps/s   lanes: {result['lanes_times'][name]:.1f}x")
    for name, reached in result.get("learners", {}).items():
        print(f"{name:12s} {reached}")


if __name__ == "__main__":
    main()
