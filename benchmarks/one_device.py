"""What the way for several devices costs on one: whole iterations on a mesh of one, and without.

    python benchmarks/one_device.py [OUT.json] [--methods psvf epvf] [--num-envs 4096 65536]

The Ant on MJX by default. A method and a size are a process each, which compile side by side; one
of them at a time measures: reports of both ways in turns, the first of each left out. The ratio is
that of the medians of milliseconds an iteration.
"""

import argparse
import fcntl
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any


def measure(method: str, num_envs: int, asked: argparse.Namespace, lock: str) -> dict[str, Any]:
    """Milliseconds an iteration of both ways."""
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from epvf.bench.learning import with_num_envs
    from epvf.config.presets import preset
    from epvf.runtime.devices import ROWS, SEEDS
    from epvf.training.loop import iterate
    from epvf.training.prepare import prepare

    config = with_num_envs(preset(asked.task, "tuned", method), num_envs).replace(
        {
            "task.backend": asked.backend,
            "task.episode_length": asked.episode_length,
            "iterations": 1_000_000,
            "schedule_iterations": None,
            "eval.interval": 1_000_000,
        }
    )
    without = prepare(config)
    mesh = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), (SEEDS, ROWS))
    begin = time.perf_counter()
    runs = {
        "without": iterate(without, donate=True),
        "mesh": iterate(without._replace(mesh=mesh), donate=True),
    }
    done = dict.fromkeys(runs, 0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        next(run)
    compiled = time.perf_counter() - begin
    with alone(lock):
        for turn in range(asked.turns + 1):
            for name in list(runs)[:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                last = next(runs[name]).records[-1]
                seconds = time.perf_counter() - start
                num = last["steps/update"] - done[name]
                done[name] = last["steps/update"]
                if turn:
                    times[name].append(1e3 * seconds / num)
    found = {name: statistics.median(each) for name, each in times.items()}
    return {
        "task": asked.task,
        "backend": asked.backend,
        "method": method,
        "num_envs": num_envs,
        "device": jax.devices()[0].device_kind,
        "ms": found,
        "ratio": found["mesh"] / found["without"],
        "each": times,
        "until_compiled": compiled,
    }


@contextmanager
def alone(file: str) -> Iterator[None]:
    """While nobody else measures."""
    with Path(file).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--task", default="ant")
    parser.add_argument("--backend", default="mjx")
    parser.add_argument("--methods", nargs="+", default=["psvf", "epvf"])
    parser.add_argument("--num-envs", nargs="+", type=int, default=[4096, 16384, 65536])
    parser.add_argument("--episode-length", type=int, default=32, help="of epvf's whole episodes")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--lock", type=Path, help="file that whoever measures has locked")
    asked = parser.parse_args()
    asks = list(product(asked.methods, asked.num_envs))
    rows = []
    context = multiprocessing.get_context("spawn")
    with tempfile.NamedTemporaryFile() as file, ProcessPoolExecutor(len(asks), context) as pool:
        lock = str(asked.lock or file.name)
        waiting = [pool.submit(measure, *ask, asked, lock) for ask in asks]
        for future in as_completed(waiting):
            try:
                row = future.result()
            except Exception as error:  # the others count too
                print(f"failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            rows.append(row)
            print(
                f"{row['task']} {row['backend']} {row['method']} {row['num_envs']}: "
                f"{row['ms']['without']:.2f} ms without, {row['ms']['mesh']:.2f} ms on a mesh of "
                f"one, ratio {row['ratio']:.4f}; compiled after {row['until_compiled']:.0f} s",
                flush=True,
            )
            if asked.out is not None:
                asked.out.write_text(json.dumps(rows, indent=1))
    return len(rows) != len(asks)


if __name__ == "__main__":
    sys.exit(main())
