"""Does a run on a Ray cluster that loses workers and machines have the numbers of a calm one?

    python benchmarks/cluster_losses.py [--method psvf] [--kills 50] [--machines 10] [--seed 0]

A cluster of three machines is simulated on this one: a head without CPUs, and two with one each.
While a run trains on it, workers are killed and machines taken away at random moments; before a
machine goes another one joins. At the end the records are compared with those of a run without a
cluster. Prints a line of JSON; exit code 0 if all is equal and nothing was left undone.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

MARK = f"EPVF_LOSSES_{uuid.uuid4().hex}"
"""In the environment of all of this cluster's processes, which nobody else's have."""


def workers() -> list[int]:
    """Workers of this cluster that compute at the moment."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                computes = file.read().startswith("ray::_guarded")
            with open(f"/proc/{pid}/environ") as file:
                if computes and MARK in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


class Disturber:
    """Kills workers and takes machines away at random moments of a run."""

    def __init__(self, machines: Any, kills: int, nodes: int, seed: int) -> None:
        self.done = {"workers": 0, "machines": 0}
        self._chance = random.Random(seed)
        self._machines = machines
        self._alive = [machines.add_node(num_cpus=1) for _ in range(2)]
        self.todo = [self._lose] * nodes + [self._kill] * kills
        self._chance.shuffle(self.todo)
        self._under_way = threading.Thread()
        self._since = time.monotonic()

    def between_iterations(self) -> None:
        """Has the next thing happen at some time in the next iterations."""
        if not self.todo or self._under_way.is_alive():
            return
        act = self.todo.pop()
        if act == self._lose:
            # in the main thread, as Ray sets handlers of signals
            self._alive.append(self._machines.add_node(num_cpus=1, wait=False))
        delay = self._chance.uniform(0.0, 0.3)
        self._under_way = threading.Thread(target=self._later, args=(delay, act), daemon=True)
        self._under_way.start()

    def finish(self) -> None:
        """Waits for what is under way."""
        if self._under_way.ident is not None:
            self._under_way.join(10.0)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        time.sleep(delay)
        act()
        print(f"{time.monotonic() - self._since:.0f} s: {self.done}", file=sys.stderr, flush=True)

    def _kill(self) -> None:
        while True:
            try:
                os.kill(self._chance.choice(workers()), signal.SIGKILL)
                self.done["workers"] += 1
                return
            except (IndexError, ProcessLookupError):
                time.sleep(0.005)  # between two iterations

    def _lose(self) -> None:
        gone = self._alive.pop(self._chance.randrange(2))
        self._machines.remove_node(gone, allow_graceful=False)
        self.done["machines"] += 1


def records(config: Any, cluster: Any = None, between: Callable[[], bool] | None = None) -> Any:
    """What a run tells, but for times; it goes on until there is nothing more to disturb."""
    from epvf.training.loop import iterate
    from epvf.training.prepare import prepare

    found = []
    for report in iterate(prepare(config, cluster=cluster)):
        for record in report.records:
            found.append({k: str(v) for k, v in record.items() if not k.startswith("time")})
        if between is not None and not between():
            break
    return found


def main() -> int:
    """Runs it; returns the exit code."""
    os.environ[MARK] = "1"
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--method", default="psvf")
    options.add_argument("--engine", default="native")
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--machines", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--iterations", type=int, default=2000, help="at most")
    asked = options.parse_args()
    import logging

    import ray
    from ray.cluster_utils import Cluster as Machines

    from epvf.config.presets import preset
    from epvf.tasks.adapters.cluster import connect

    config = preset("ant", "debug", asked.method).replace(
        {
            "task.backend": asked.engine,
            "task.num_threads": 1,
            "num_envs": 256,
            "iterations": asked.iterations,
        }
    )
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0})
    disturber = Disturber(machines, asked.kills, asked.machines, asked.seed)
    ray.init(address=machines.address, log_to_driver=False, logging_level=logging.ERROR)
    cluster = connect(machines.address, None)
    calm = iter(range(3))

    def between() -> bool:
        disturber.between_iterations()
        # a few iterations more, so that what was lost last is seen, too
        return bool(disturber.todo) or next(calm, None) is not None

    begin = time.monotonic()
    found = records(config, cluster, between)
    seconds = time.monotonic() - begin
    disturber.finish()
    ray.shutdown()
    machines.shutdown()
    undisturbed = records(config.replace({"iterations": asked.iterations}), between=iter_of(found))
    same = found == undisturbed
    told = {"same": same, "records": len(found), **disturber.done, "left": len(disturber.todo)}
    print(json.dumps(told | {"again": cluster.again, "seconds": round(seconds)}))
    return 0 if same and not disturber.todo else 1


def iter_of(found: list[Any]) -> Callable[[], bool]:
    """Whether a run has to go on to have as many records."""
    left = iter(range(len(found) - 1))
    return lambda: next(left, None) is not None


if __name__ == "__main__":
    sys.exit(main())
