"""Lanes on a GPU: whether its kernels compute what lanes on a CPU do, and how fast.

    python benchmarks/gpu_lanes.py --prepare DIR        anywhere, beforehand: what needs no GPU
    python benchmarks/gpu_lanes.py --use DIR OUT.json   on a machine with a GPU, without a network

`--prepare` writes the kernels' PTX and what lanes on the CPU find (returns and lengths of 384
policies, a segment); without `--use` all that is made on the spot. Equal means equal to the bit:
sums, products, quotients and roots round alike on both.

The Ant, policies of 34-64-64-8. 384 random policies (LeCun-uniform, kernels and biases scaled by
0.3, 1 and 2, a third each) are compared. Speeds are of those among them that live for 1,000 steps,
repeated as often as needed, so that no environment ever stands still: 200 steps an episode, or
segments of 32 steps. The best of 3 calls counts. MJX under XLA runs the same policies.

Each part that fails is told, and the others go on; parts that the seconds of `--budget` do not
suffice for are left out, and told too. Exits with 2 where there is no GPU.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.policies.mlp import Policy
from epvf.tasks.ant import BODY
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.engines.lanes import GpuTask, LanesTask, gpu, ptx
from epvf.tasks.engines.lanes.kernel import Block
from epvf.types import Envs

POLICY = Policy((34, 64, 64, 8))
NUM = 384
LENGTHS = (20, 60, 1000)
HORIZON = 32
SPEED_STEPS = 200
SIZES = (1024, 4096, 16384, 65536)
SOME = 4096
WARPS = (8, 4, 2)
SEGMENT_PARTS = (
    "observations", "outputs", "rewards", "terminated", "truncated",
    "steps", "total", "finished", "finished_steps",
)  # fmt: skip


@dataclass
class Report:
    """What was found, told at once and kept for the end."""

    out: Path | None
    budget: float
    start: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, **row: Any) -> None:
        self.rows.append(row)
        shown = " ".join(f"{name}={_shown(value)}" for name, value in row.items())
        print(f"[{time.perf_counter() - self.start:6.1f} s] {shown}", flush=True)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self.rows, indent=1))

    def part(self, name: str, seconds: float, run: Callable[[], None]) -> None:
        """Runs a part that may take so long; what goes wrong in it is told."""
        left = self.budget - (time.perf_counter() - self.start)
        if left < seconds:
            self.tell(part=name, left_out=f"needs {seconds:.0f} s of the {left:.0f} s left")
            return
        try:
            run()
        except Exception as error:  # the other parts count too
            traceback.print_exc(limit=-3, file=sys.stdout)
            self.tell(part=name, failed=f"{type(error).__name__}: {str(error)[:300]}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def population() -> np.ndarray:
    """384 random policies, the same wherever this runs: numpy's draws, not JAX's."""
    rng = np.random.default_rng(20)
    scales = np.repeat([0.3, 1.0, 2.0], NUM // 3)[:, None]
    parts = []
    for fan_in, fan_out in POLICY.shapes:
        size = fan_in * fan_out + fan_out
        parts.append(scales * rng.uniform(-1.0, 1.0, (NUM, size)) / np.sqrt(fan_in))
    return np.concatenate(parts, axis=1).astype(np.float32)


def host(length: int) -> LanesTask:
    """The Ant on lanes of the CPU."""
    task = mjx.make(BODY, length)
    made = lanes.make(task.environment, task.spec, num_threads=_threads())
    assert isinstance(made, LanesTask)
    return made


def _threads() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def on_gpu(task: LanesTask, warps: int | None, source: gpu.Source, length: int) -> GpuTask:
    """The same program as kernels."""
    spec = replace(task.spec, traceable=True, episode_length=length)
    return GpuTask(task.program, spec, warps, source)


def sources(folder: Path | None) -> gpu.Source:
    """Where PTX comes from: a folder that `--prepare` made, or it is written now."""
    if folder is None:
        return ptx.source

    def source(program: Any, policy: Policy, name: str, warps: int) -> str:
        file = folder / f"{name}-{warps}.ptx"
        if policy == POLICY and file.exists():
            return file.read_text()
        return ptx.source(program, policy, name, warps)

    return source


def expectations() -> dict[str, np.ndarray]:
    """What lanes on the CPU find."""
    thetas, out = population(), {}
    task = host(1000)
    key = jax.random.key(0)
    for length in LENGTHS:
        own = LanesTask(replace(task.program, spec=replace(task.spec, episode_length=length)), 1)
        evaluation = replace(own, num_threads=task.num_threads).evaluator(POLICY)(key, thetas)
        out[f"returns_{length}"] = evaluation.returns
        out[f"lengths_{length}"] = evaluation.lengths
    short = replace(task, program=replace(task.program, spec=replace(task.spec, episode_length=60)))
    envs = _envs(task, key)
    first = short.explorer(POLICY, HORIZON)(key, thetas, envs)
    second = short.explorer(POLICY, HORIZON)(key, thetas, first.envs)
    for number, segment in enumerate((first, second)):
        for name, value in _parts(segment).items():
            out[f"segment_{number}_{name}"] = value
    return out


def _envs(task: Any, key: jax.Array) -> Envs:
    """Where segments begin: at the resets, but a part of them late in their episodes."""
    envs = task.explorer(POLICY, HORIZON).reset(key, NUM)
    return envs._replace(steps=jnp.arange(NUM, dtype=jnp.int32) % 50)


def _parts(segment: Any) -> dict[str, np.ndarray]:
    values = [getattr(segment, name, None) for name in SEGMENT_PARTS]
    values = [
        getattr(segment.envs, name) if value is None else value
        for name, value in zip(SEGMENT_PARTS, values, strict=True)
    ]
    return {name: np.asarray(x) for name, x in zip(SEGMENT_PARTS, values, strict=True)}


def prepare(folder: Path) -> None:
    """Writes all that needs no GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    program = host(1000).program
    for name, write in ptx.WRITERS.items():
        for warps in WARPS:
            text = ptx.assemble(write(program, POLICY, Block(warps)))
            (folder / f"{name}-{warps}.ptx").write_text(text)
            print(f"{name}-{warps}.ptx {len(text)} bytes", flush=True)
    found = expectations()
    np.savez_compressed(folder / "expected.npz", **found)
    for length in LENGTHS:
        returns, lengths = found[f"returns_{length}"], found[f"lengths_{length}"]
        print(f"{length} steps: return {returns.mean():.4f}, length {lengths.mean():.1f}")
    print(f"{(found['lengths_1000'] >= 1000).sum()} of {NUM} policies live for 1000 steps")


def timed(run: Callable[[], Any], repeats: int = 3) -> tuple[Any, float, float]:
    """The result, the best seconds, and those of the first call."""
    start = time.perf_counter()
    out = jax.block_until_ready(run())
    first, best = time.perf_counter() - start, float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        out = jax.block_until_ready(run())
        best = min(best, time.perf_counter() - start)
    return out, best, first


def compare_episodes(report: Report, task: GpuTask, expected: Any, warps: int) -> None:
    thetas = jnp.asarray(population())
    for length in LENGTHS:
        evaluate = on_gpu_again(task, warps, length).evaluator(POLICY)
        out, best, first = timed(lambda: evaluate(jax.random.key(0), thetas), 1)  # noqa: B023
        returns, lengths = np.asarray(out.returns), np.asarray(out.lengths)
        known, ends = expected[f"returns_{length}"], expected[f"lengths_{length}"]
        same = lengths == ends
        report.tell(
            part="episodes",
            warps=warps,
            steps=length,
            bits_equal=int((returns.view(np.int32) == known.view(np.int32)).sum()),
            of=NUM,
            same_length=int(same.sum()),
            max_error=float(np.nan_to_num(np.abs(returns - known)[same]).max(initial=0.0)),
            mean_return=float(np.nanmean(returns)),
            cpu_mean_return=float(np.nanmean(known)),
            mean_length=float(lengths.mean()),
            cpu_mean_length=float(ends.mean()),
            seconds=best,
            first_call=first,
        )


def on_gpu_again(task: GpuTask, warps: int | None, length: int) -> GpuTask:
    return replace(task, warps=warps, spec=replace(task.spec, episode_length=length))


def compare_segments(report: Report, task: GpuTask, expected: Any, warps: int) -> None:
    explore = on_gpu_again(task, warps, 60).explorer(POLICY, HORIZON)
    key, thetas = jax.random.key(0), jnp.asarray(population())
    envs = _envs(task, key)
    for number in range(2):
        segment, best, first = timed(lambda: explore(key, thetas, envs), 1)  # noqa: B023
        row: dict[str, Any] = {}
        for name, value in _parts(segment).items():
            known = expected[f"segment_{number}_{name}"]
            row[name] = (
                "same"
                if np.array_equal(value, known, equal_nan=True)
                else (
                    f"differs in {int((value != known).sum())} of {value.size}, by at most "
                    f"{np.nanmax(np.abs(value.astype(float) - known.astype(float))):.2g}"
                )
            )
        ended = int(np.asarray(segment.terminated).sum()), int(np.asarray(segment.truncated).sum())
        report.tell(
            part="segment", warps=warps, number=number, **row,
            terminated_truncated=ended, seconds=best, first_call=first,
        )  # fmt: skip
        envs = segment.envs


def long_living(expected: Any, num: int) -> jax.Array:
    """Policies that go on, as many as wanted."""
    alive = population()[expected["lengths_1000"] >= 1000]
    return jnp.tile(jnp.asarray(alive), (-(-num // len(alive)), 1))[:num]


def time_episodes(report: Report, task: GpuTask, expected: Any, warps: int, num: int) -> None:
    evaluate = on_gpu_again(task, warps, SPEED_STEPS).evaluator(POLICY)
    thetas = long_living(expected, num)
    out, best, first = timed(lambda: evaluate(jax.random.key(0), thetas))
    steps = int(np.asarray(out.lengths).sum())
    report.tell(
        part="speed of episodes", warps=warps, envs=num, env_steps_per_second=steps / best,
        us_per_step=1e6 * best / SPEED_STEPS, first_call=first,
    )  # fmt: skip


def time_segments(report: Report, task: Any, expected: Any, num: int, name: str) -> None:
    explore = task.explorer(POLICY, HORIZON)
    thetas, key = long_living(expected, num), jax.random.key(0)
    envs = explore.reset(key, num)
    run = jax.jit(lambda thetas, envs: explore(key, thetas, envs))
    _, best, first = timed(lambda: run(thetas, envs))
    report.tell(
        part=f"speed of segments, {name}", envs=num,
        env_steps_per_second=num * HORIZON / best, ms=1e3 * best, first_call=first,
    )  # fmt: skip


def time_mjx(report: Report, expected: Any, num: int) -> None:
    evaluate = mjx.make(BODY, SPEED_STEPS).evaluator(POLICY)
    thetas = long_living(expected, num)
    run = jax.jit(lambda thetas: evaluate(jax.random.key(0), thetas))
    out, best, first = timed(lambda: run(thetas), 1)
    report.tell(
        part="speed of episodes, mjx", envs=num,
        env_steps_per_second=int(np.asarray(out.lengths).sum()) / best, first_call=first,
    )  # fmt: skip


def time_iterations(report: Report, task: Any, method: str, num: int, seconds: float) -> None:
    """Whole iterations of training as `epvf train` runs them, on this task."""
    from epvf.bench.learning import with_num_envs
    from epvf.config.presets import preset
    from epvf.training.loop import iterate
    from epvf.training.prepare import prepare as prepared

    setup = prepared(with_num_envs(preset("ant", "tuned", method), num), task)
    start = time.perf_counter()
    first = None
    last: dict[str, Any] = {}
    for news in iterate(setup):
        last = dict(news.records[-1])
        if first is None:
            first, compiled = last, time.perf_counter() - start
        if time.perf_counter() - start - compiled > seconds:
            break
    assert first is not None
    done = last["steps/update"] - first["steps/update"]
    wall = last["time/wall"] - first["time/wall"]
    report.tell(
        part=f"iterations of {method}, {task.spec.backend}", policy=setup.policy.describe(),
        envs=num, iterations=done, ms=1e3 * wall / max(done, 1),
        env_steps_per_second=(last["steps/env"] - first["steps/env"]) / max(wall, 1e-9),
        until_first=compiled,
    )  # fmt: skip


def measure(report: Report, folder: Path | None) -> None:
    task = host(1000)
    known = {} if folder is None else dict(np.load(folder / "expected.npz"))
    expected = known or expectations()
    made = on_gpu(task, None, sources(folder), 1000)
    report.tell(part="ready", device=jax.devices()[0].device_kind, jax=jax.__version__)
    for warps in WARPS[:2]:
        report.part("episodes", 15, partial(compare_episodes, report, made, expected, warps))
    report.part("segment", 15, partial(compare_segments, report, made, expected, 8))
    for warps in WARPS:
        for num in SIZES:
            run = partial(time_episodes, report, made, expected, warps, num)
            report.part("speed of episodes", 15 if num == SIZES[0] else 5, run)
    for num in SIZES:
        run = partial(time_segments, report, made, expected, num, "lanes")
        report.part("speed of segments, lanes", 12 if num > SOME else 5, run)
    report.part("mjx", 25, partial(time_mjx, report, expected, SOME))
    other = mjx.make(BODY)
    run = partial(time_segments, report, other, expected, SOME, "mjx")
    report.part("speed of segments, mjx", 20, run)
    for method, engine in (("psvf", made), ("epvf", made), ("psvf", other)):
        run = partial(time_iterations, report, engine, method, SOME, 4.0)
        report.part(f"iterations of {method}, {engine.spec.backend}", 35, run)


def table(rows: list[dict[str, Any]]) -> str:
    """The findings in a few lines."""
    lines = ["", "part | warps | envs | result", "---|---|---|---"]
    for row in rows:
        lead = f"{row.get('part', '')} | {row.get('warps', '')} | {row.get('envs', '')} | "
        if "failed" in row or "left_out" in row:
            lines.append(
                lead + ("FAILED: " + row["failed"] if "failed" in row else row["left_out"])
            )
        elif "env_steps_per_second" in row:
            rate = f"{row['env_steps_per_second'] / 1e6:.2f}M env steps/s"
            lines.append(lead + rate + (f", {row['ms']:.1f} ms" if "ms" in row else ""))
        elif row.get("part") == "episodes":
            lines.append(
                f"{lead}{row['steps']} steps: {row['bits_equal']} of {row['of']} returns have the "
                f"same bits, {row['same_length']} the same length, return {row['mean_return']:.4f} "
                f"(CPU {row['cpu_mean_return']:.4f})"
            )
        elif row.get("part") == "segment":
            wrong = [name for name in SEGMENT_PARTS if row[name] != "same"]
            lines.append(
                lead + (f"differs in {', '.join(wrong)}" if wrong else "all the same bits")
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", nargs="?", type=Path, help="JSON of all findings")
    parser.add_argument("--prepare", type=Path, metavar="DIR")
    parser.add_argument("--use", type=Path, metavar="DIR")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds in all")
    asked = parser.parse_args()
    if asked.prepare is not None:
        prepare(asked.prepare)
        return 0
    if jax.default_backend() != "gpu":
        print(f"gpu_lanes: JAX has no GPU here, but {jax.default_backend()}; see --prepare")
        return 2
    report = Report(asked.out, asked.budget)
    report.part("all", 0, partial(measure, report, asked.use))
    print(table(report.rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
