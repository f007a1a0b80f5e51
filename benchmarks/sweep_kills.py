"""Does a sweep whose driver is killed lose a trial, or train one twice?

    python benchmarks/sweep_kills.py [--trials 40] [--kills 5] [--method matched-openes] [--seed 0]

`epvf sweep cartpole` is killed with `kill -9` at random moments, and the same command goes on. A
trial that had ended before a kill has to be there afterwards as it was, value and files; one that
was under way goes on where it stood, so that its records have every update once. Prints a line of
JSON; exit code 0 if all of this holds.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def ended(folder: Path) -> dict[int, tuple[str, str]]:
    """Of each trial that the study says has ended: how, and a hash of its run's records."""
    from optuna import load_study
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    journal = folder / "study.journal"
    if not journal.exists():
        return {}
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (name,) = (study.study_name for study in storage.get_all_studies())
    found = {}
    for trial in load_study(study_name=name, storage=storage).get_trials(deepcopy=False):
        if trial.state.is_finished():
            records = folder / "runs" / f"trial-{trial.number:04}" / "metrics.jsonl"
            said = f"{trial.state.name} {trial.value} {trial.params} {trial.datetime_complete}"
            found[trial.number] = (said, hashlib.sha256(records.read_bytes()).hexdigest())
    return found


def updates(run: Path) -> list[int]:
    """The numbers of the updates that a run has records of."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["steps/update"] for line in lines]


def killed_at(command: list[str], folder: Path, count: int, delay: float) -> bool:
    """Kills the command some seconds after `count` trials have begun; False if it ends before."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(folder.glob("runs/*"))) < count:
            time.sleep(0.02)
        time.sleep(delay)
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
    return True


def main() -> int:
    """Runs it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--kills", type=int, default=5)
    options.add_argument("--method", default="matched-openes", help="compiles soonest")
    options.add_argument("--env-steps", default="3e3")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    chance = random.Random(asked.seed)
    begin, kills, changed = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sweep"
        command = [sys.executable, "-m", "epvf", "sweep", "cartpole", "--preset", "debug"]
        command += ["--method", asked.method, "--env-steps", asked.env_steps]
        command += ["--trials", str(asked.trials)]
        command += ["--search", "perturbation.scale=0.1:1"]
        command += ["policy-update.learning-rate=log:1e-3:1"]
        command += ["--out", str(folder), "--json"]
        for count in sorted(chance.sample(range(1, asked.trials + 1), asked.kills)):
            before = ended(folder)
            if not killed_at(command, folder, count, chance.uniform(0.0, 3.0)):
                break
            now = ended(folder)
            kills.append({"begun": len(list(folder.glob("runs/*"))), "ended": len(now)})
            changed += [number for number in before if before[number] != now.get(number)]
            print(f"{time.monotonic() - begin:.0f} s: {kills[-1]}", file=sys.stderr, flush=True)
        before = ended(folder)
        last = subprocess.run(command, capture_output=True, text=True)
        if last.returncode:
            print(last.stderr, file=sys.stderr)
            return 1
        result, now = json.loads(last.stdout), ended(folder)
        changed += [number for number in before if before[number] != now.get(number)]
        runs = {run.name: updates(run) for run in sorted((folder / "runs").iterdir())}
    twice = [name for name, seen in runs.items() if seen != list(range(1, len(seen) + 1))]
    told: dict[str, Any] = {name: result[name] for name in ("trials", "complete", "given_up")}
    told |= {"ended": len(now), "runs": len(runs), "kills": kills}
    told |= {"changed": changed, "twice": twice, "seconds": round(time.monotonic() - begin)}
    print(json.dumps(told))
    whole = len(now) == len(runs) == asked.trials and len(kills) == asked.kills
    return 0 if whole and not changed and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
