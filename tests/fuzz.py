"""Damaged and foreign input for every door of the command line, from a seed.

    python tests/fuzz.py --count 1300 --seed 0

writes one line for each input that was met by a traceback, a hang, a line of more than 200
characters, a control character, a changed file that is none of the command's, or work that was
lost. `tests/house/test_fuzz.py` tries a few inputs of each kind.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from epvf.cli.main import COMMANDS, main
from epvf.config.presets import preset
from epvf.config.schema import to_dict
from epvf.errors import UserError
from epvf.experiments import compare, runner
from epvf.files import strict_json
from epvf.methods.registry import METHODS
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.folder import Run, read_info
from epvf.runs.metrics import read_metrics
from epvf.training.loop import init_state
from epvf.training.prepare import prepare

LONGEST_LINE = 200
SECONDS = 60.0
LONG = 15.0
"""Seconds after which a run that goes on writing records is ended by a Ctrl-C.

A damaged setting may well ask for a million iterations, which is no hang.
"""

STILL = 5.0
"""Seconds without a record after which a run is no longer taken for one that goes on."""

ITERATIONS = 3

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "iterations": ITERATIONS,
    "checkpoint.keep": 2 * ITERATIONS,
    "policy.hidden_sizes": [],
    "buffer.size": 8,
    "value_update.batch_size": 4,
    "value.hidden_sizes": [8],
}
METHODS_COMPARED = ("epvf", "openes")
BUDGET = 100

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, 10**300, -(10**300)),
    *(float("nan"), float("inf"), "", "x", "none", "1M", "25e6", "1_000_000", "1e999", "0x10"),
    *("\x1b[31mred\x07", "a" * 5000, "\ud800", "٣", "../../up", "/etc/passwd", "a:b", "\n\n", "%s"),
    *("os:abort", "outside.py:make", "[/bold]", "{}", "\u202eabc"),
    *([], {}, [1, "a"], {"a": {"b": []}}, [[]], [None], [1e400], ["a" * 300] * 30),
]
"""Values that no reader may fall over."""

TEXTS = [
    *(
        "",
        "\0",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ":",
        "- -",
        "? ?",
        "a: b: c",
        "&a *a",
        "%YAML 9.9\n---\n",
    ),
    *("num_envs: !!int abc", "num_envs: 2024-99-99", "num_envs: 0b", "seed: " + "9" * 5000),
    *("num_envs: !!python/object/apply:os.system [true]", "seed: 1\nseed: 2", "<<: *x", "<<: 1"),
    *("[" * 990 + "]" * 990, "[" * 100_000, "{a: " * 990, '{"a":' * 5000 + "1" + "}" * 5000),
    *("num_envs: 2001-12-14t21:59:43.10-05:00", "num_envs: !!binary ====", "num_envs: 1:30"),
    *("task: !!set {a}", "task: !!omap [a: 1]", "? [a, b]\n: 1", "null: 1", "1: 2", "~: ~"),
    *('{"num_envs": 1,}', '{"num_envs": 1}}', '{"num_envs": NaN}', '{"seed": 1, "seed": 2}'),
    *(
        '{\n\t"num_envs": 4\n}',
        "psvf.noise: 0.3",
        "value.hidden_sizes: [4]",
        "value.hidden-sizes: 4",
    ),
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(
        f"{c}: &{c} [{','.join(['*' + p] * 9)}]"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a: &a [*a]",
    "num_envs: &n 4\niterations: *n",
    "x: " + "y" * 300_000,
    "\ufeffnum_envs: 4",
    "num_envs: 4 # \x1b[2J",
    "task: {name: 'outside.py:make'}",
    "\n".join(f"field{i}: 1" for i in range(3000)),
]
"""Whole files of configuration."""


class Found(NamedTuple):
    """What is wrong with how an input was met.

    Attributes:
        kind, number: of the input; with the seed they make it again.
        problem: in a few words.
        detail: where.
    """

    kind: str
    number: int
    problem: str
    detail: str


class Fuzzer:
    """Inputs by kind and number, each tried in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        self._folder = folder
        self._whole = folder / "whole"
        self._outside = folder / "outside"
        self.answer = ""
        self.codes: collections.Counter[int] = collections.Counter()
        self._outside.mkdir(parents=True)
        (self._outside / "precious").write_text("all that I have\n")
        (self._outside / "make.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
        self._whole.mkdir()
        with _in_folder(self._whole):
            _make_run(Path("run"), "interrupted")
            _make_run(Path("finished"), "finished")
            policy = Policy((4, 3, 2), "tanh", "argmax")
            save_policy("policy.safetensors", policy, np.ones(23), "cartpole", 1.5)
            _make_comparison(Path("comparison"))

    def try_one(self, kind: str, number: int) -> Found | None:
        """Tries an input; what is wrong, or None."""
        rng = random.Random(f"{self._seed} {kind} {number}")
        place = self._folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._whole, place, symlinks=True)
        with _in_folder(place):
            words = KINDS[kind](rng, place, self._outside)
            before = self._precious(place)
            problem = self._run(words)
            if problem is None:
                problem = self._lost(place, before)
        return None if problem is None else Found(kind, number, problem[0], f"{words} {problem[1]}")

    def _run(self, words: list[str]) -> tuple[str, str] | None:
        out, err = io.StringIO(), io.StringIO()
        begin = time.monotonic()
        watch = _Watch(Path.cwd())
        faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
        try:
            with watch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(words)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "epvf" in f.filename]
            return "traceback", f"{type(error).__name__}: {str(error)[:150]!r} at {own[-5:]}"
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.codes[code] += 1
        said = err.getvalue()
        last = said.splitlines()[-1] if said else ""
        self.answer = f"{code} {last or out.getvalue()[:100]}"
        if (seconds := time.monotonic() - begin) > SECONDS:
            return "hang", f"{seconds:.0f} s"
        if code == 130 and watch.ended:
            return None if _interrupted(Path.cwd()) else ("not saved", last)
        if code not in (0, 1, 2):
            return "exit code", str(code)
        if code and not last.startswith("epvf: error: "):
            return "no reason", repr(said[-200:])
        if code and len(last) > LONGEST_LINE:
            return "long line", f"{len(last)}: {last[:300]!r}"
        told = out.getvalue() + said
        if "Traceback" in told:
            return "traceback", repr(told[-300:])
        if bad := [c for c in told if not c.isprintable() and c not in "\n"]:
            return "control character", f"{bad[0]!r} in {last[:200]!r}"
        return None

    def _precious(self, place: Path) -> dict[str, bytes]:
        """What no command that is tried here may change."""
        kept = [*place.glob("*/checkpoints/*/**/*"), *place.glob("*/runs/*/checkpoints/*/**/*")]
        kept += [*place.glob("*/policies/best*"), *place.glob("*/runs/*/policies/*")]
        return {
            str(path): path.read_bytes()
            for path in kept
            if path.is_file() and not path.is_symlink()
        }

    def _lost(self, place: Path, before: dict[str, bytes]) -> tuple[str, str] | None:
        if sorted(path.name for path in self._outside.iterdir()) != ["make.py", "precious"]:
            return "written outside", str(list(self._outside.iterdir()))
        if (self._outside / "precious").read_text() != "all that I have\n":
            return "changed outside", "precious"
        if (self._folder / "ran").exists():
            (self._folder / "ran").unlink()
            return "ran a file", "make.py"
        aside = [path for path in place.glob("*/set-aside/**/*") if path.is_file()]
        kept = {path.read_bytes() for path in aside}
        gone = [
            path
            for path, content in before.items()
            if "/checkpoints/" in path and not Path(path).exists() and content not in kept
        ]
        if gone:
            return "lost", f"{len(gone)} files such as {gone[0]}"
        return None


class _Watch:
    """Ends the command in this process by a Ctrl-C if its run goes on and on.

    Attributes:
        ended: whether that was done.
    """

    def __init__(self, place: Path) -> None:
        self.ended = False
        self._place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        begin = grown = time.monotonic()
        size = first = self._size()
        while not self._over.wait(0.5):
            now, before, size = time.monotonic(), size, self._size()
            grown = now if size != before else grown
            if size > first and now - begin > LONG and now - grown < STILL:
                self.ended = True
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _size(self) -> int:
        """Bytes of all records of regular files (a pipe in their place is never opened)."""
        runs = [*self._place.glob("*/metrics.jsonl"), *self._place.glob("*/runs/*/metrics.jsonl")]
        return sum(os.lstat(path).st_size for path in runs)


def _interrupted(place: Path) -> bool:
    """Whether a run says so that was ended here, and has a checkpoint of its last record."""
    for run in (place / "run", place / "finished", *place.glob("comparison/runs/*")):
        with contextlib.suppress(UserError, OSError, LookupError):
            if read_info(run)["status"] == "interrupted":
                last = int(read_metrics(run / "metrics.jsonl")[-1]["steps/update"])
                if last > ITERATIONS and (run / "checkpoints" / f"{last:012}").is_dir():
                    return True
    return False


# --- templates


def _make_run(path: Path, status: Any, method: str = "epvf", delta: Any = None) -> None:
    """A run with policies, metrics and checkpoints of every iteration, made without training."""
    start = preset("cartpole", "debug", method)
    small = {k: v for k, v in SMALL.items() if method == "epvf" or "." not in k or "policy" in k}
    setup = prepare(
        start.replace(small | {"checkpoint.keep": SMALL["checkpoint.keep"]} | (delta or {}))
    )
    run = Run.create(path, setup.config, ["epvf", "train"])
    state = init_state(setup)
    checkpoints = Checkpoints(run.checkpoints, ITERATIONS)
    lines = []
    for i in range(1, ITERATIONS + 1):
        env_steps = np.full(setup.config.num_seeds, BUDGET * i)
        checkpoints.save(state._replace(iteration=i, env_steps=env_steps))
        lines.append(strict_json(_record(i)))
    checkpoints.close()
    run.metrics_file.write_text("\n".join(lines) + "\n")
    theta = np.zeros(setup.policy.num_parameters, np.float32)
    for which in ("best", "last"):
        save_policy(run.policy(which), setup.policy, theta, "cartpole", 1.0, {"seed": 0})
    run.ended(status)
    run.close()


def _record(iteration: int) -> dict[str, Any]:
    return {
        "steps/update": iteration,
        "steps/env": BUDGET * iteration,
        "time/wall": 0.5 * iteration,
        "time/sps": 100.0,
        "rollout/episode_return": 10.0 * iteration,
        "rollout/episode_length": 10.0,
        "rollout/nonfinite": 0,
        "eval/episode_return": 12.0 * iteration if iteration != 2 else None,
        "loss/value": 1.0,
    }


def _comparison() -> Any:
    return compare.planned("cartpole", METHODS_COMPARED, 1, BUDGET, "debug")


def _make_comparison(path: Path) -> None:
    plan = _comparison()
    runner.open_folder(path, plan)
    for arm in plan.arms:
        folder = runner.run_folder(path, arm)
        setup = prepare(arm.config)
        run = Run.create(folder, setup.config, ["epvf", "compare"])
        run.metrics_file.write_text(strict_json(_record(1)) + "\n")
        checkpoints = Checkpoints(run.checkpoints, 1)
        checkpoints.save(init_state(setup)._replace(iteration=1, env_steps=np.array([BUDGET])))
        checkpoints.close()
        theta = np.zeros(setup.policy.num_parameters, np.float32)
        for which in ("best", "last"):
            save_policy(run.policy(which), setup.policy, theta, "cartpole", 1.0)
        run.ended("finished")
        run.close()


# --- mutations


def _odd(rng: random.Random) -> Any:
    return rng.choice(ODD)


def _bytes(rng: random.Random, content: bytes) -> bytes:
    """Bits flipped, a piece cut out, doubled or put in, the end cut off, or nothing left."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        at = rng.randrange(len(data)) if data else 0
        length = rng.choice((1, 2, 8, 100))
        match rng.randrange(7):
            case 0 | 1 | 2 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at:at] = rng.choice(
                    (b"\0", b"\xff\xfe", b"\x1b[2J", b"[" * 500, b"\n", b"9" * 99)
                )
            case 6:
                del data[at if rng.random() < 0.8 else 0 :]
    return bytes(data)


def _structure(rng: random.Random, value: Any) -> Any:
    """Somewhere in a plain value: replaced, removed, added or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[name]
            case 1:
                changed[str(_odd(rng))] = _odd(rng)
            case 2:
                changed[name.swapcase() if isinstance(name, str) else "x"] = changed.pop(name)
            case _:
                changed[name] = _structure(rng, value[name])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.5:
        changed_list = list(value)
        at = rng.randrange(len(value))
        changed_list[at] = _structure(rng, value[at])
        return changed_list
    return _odd(rng)


def _json(value: Any, **how: Any) -> str:
    with contextlib.suppress(ValueError):
        return json.dumps(value, **how)
    return "{}"


def _plain(text: str) -> Any:
    """What JSON holds, or its text where a change before this one has broken it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _mutated_file(rng: random.Random, path: Path, outside: Path) -> None:
    """One file or folder of a run: changed, removed, or exchanged for something else."""
    kind = rng.randrange(12)
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        return  # changed already
    if kind == 0:
        _remove(path)
    elif kind == 1:
        _remove(path)
        path.symlink_to(outside / "precious")
    elif kind == 2:
        _remove(path)
        path.symlink_to(outside if path.suffix == "" else outside / "new")
    elif kind == 3 and path.is_file():
        path.unlink()
        path.mkdir()
    elif kind == 4 and path.is_file():
        path.unlink()
        os.mkfifo(path)
    elif path.is_file() and path.suffix == ".json" and kind < 10:
        path.write_text(_json(_structure(rng, _plain(path.read_text()))))
    elif path.is_file() and path.suffix == ".jsonl" and kind < 10:
        lines = path.read_text().splitlines()
        at = rng.randrange(len(lines)) if lines else 0
        lines[at : at + 1] = [_json(_structure(rng, _plain("".join(lines[at : at + 1]))))]
        path.write_text("\n".join(lines) + "\n")
    elif path.is_file():
        path.write_bytes(_bytes(rng, path.read_bytes()))
    else:
        inner = [p for p in path.rglob("*") if p.is_file()]
        if inner:
            _mutated_file(rng, rng.choice(inner), outside)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _mutated_run(rng: random.Random, run: Path, outside: Path) -> None:
    names = ["config.json", "run.json", "metrics.jsonl", "policies", "checkpoints", ".lock", "tb"]
    for name in rng.choices(names, weights=[4, 4, 4, 2, 2, 1, 1], k=rng.choice((1, 1, 1, 2))):
        path = run / name
        if not path.exists() and not path.is_symlink():
            path.mkdir(parents=True, exist_ok=True)
        _mutated_file(rng, path, outside)


# --- kinds of input: each changes the place and gives the words of a command


def _config(rng: random.Random, place: Path, outside: Path) -> list[str]:
    path = place / rng.choice(("c.json", "c.yaml", "c.yml", "c"))
    method = rng.choice(("epvf", "psvf", "openes", "ppo"))
    task = rng.choice(("cartpole", "ant"))
    whole = to_dict(preset("cartpole" if method == "psvf" else task, "debug", method))
    match rng.randrange(4):
        case 0:
            text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        case 1:
            dump = rng.choice((lambda v: _json(v, indent="\t"), yaml.safe_dump))
            text = _bytes(rng, dump(whole).encode())
        case _:
            for _ in range(rng.choice((1, 1, 2, 5))):
                whole = _structure(rng, whole)
            text = _json(whole, indent=rng.choice((None, "\t"))).encode()
    path.write_bytes(text)
    return [
        "train",
        "cartpole" if rng.random() < 0.5 else task,
        "--config",
        str(path),
        "--dry-run",
        "--no-timing",
    ]


OWN_OPTIONS = {
    "resume": ["iterations", "env-steps", "checkpoint", "json"],
    "eval": ["backend", "policy", "seed", "json"],
    "plot": ["out", "x", "smooth", "json"],
    "tasks": ["json"],
    "methods": ["json"],
    "runs": ["json"],
    "doctor": ["json"],
}


def _options(rng: random.Random, place: Path, outside: Path) -> list[str]:
    command = rng.choice([*COMMANDS, *["train"] * 12, "eval", "plot", "nonsense"])
    first = {
        "train": ["cartpole", "--dry-run", "--no-timing", "--preset", "debug"],
        "resume": ["finished"],
        "eval": ["policy.safetensors", "--episodes", "2"],
        "plot": ["finished"],
        "tasks": [],
        "methods": [],
        "runs": [],
        "doctor": ["--json"],
    }.get(command, ["cartpole", "--nonsense"])
    names = [
        *(
            "num-envs",
            "iterations",
            "env-steps",
            "seed",
            "num-seeds",
            "method",
            "preset",
            "variant",
        ),
        *(
            "config",
            "init",
            "out",
            "backend",
            "policy.hidden-sizes",
            "value.layer-norm",
            "task.name",
        ),
        *(
            "value.no-layer-norm",
            "buffer.size",
            "perturbation.scale",
            "json",
            "x",
            "smooth",
            "seed",
        ),
        *("policy", "checkpoint.every-minutes", "psvf.noise", "episodes", "jobs", "methods", ""),
    ]
    words = [command, *first]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        value = _word(rng)
        if rng.random() < 0.8:
            own = OWN_OPTIONS.get(command, names)
            name = f"--{rng.choice(own if rng.random() < 0.8 else names)}"
            words += [f"{name}={value}"] if rng.random() < 0.2 else [name, value]
        else:
            words.insert(rng.randrange(1, len(words) + 1), value)
    if command == "eval" and "--episodes" in words[4:]:
        words += ["--episodes", "2"]
    return [word.replace("\0", "") for word in words]


def _word(rng: random.Random) -> str:
    known = [
        "policy.safetensors",
        "finished",
        "run",
        "debug",
        "epvf",
        "ppo",
        "raw",
        "none",
        "4",
        "-1",
    ]
    known += ["latest", "--help"] if rng.random() < 0.1 else []
    return str(_odd(rng)) if rng.random() < 0.7 else rng.choice(known)


def _policy(rng: random.Random, place: Path, outside: Path) -> list[str]:
    path = place / "policy.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    match rng.randrange(6):
        case 0:
            path.write_bytes(_bytes(rng, content))
        case 1:
            _mutated_file(rng, path, outside)
        case 2:
            name = rng.choice([*header["__metadata__"], "episode_length", "seed"])
            header["__metadata__"][name] = str(_odd(rng))
            _write_policy(path, header, body)
        case 3:
            name = rng.choice([n for n in header if n != "__metadata__"])
            header[name]["dtype"] = rng.choice(
                ("F64", "F16", "BF16", "I32", "BOOL", "F8_E4M3", "X")
            )
            _write_policy(path, header, body)
        case 4:
            bad = np.frombuffer(body, np.float32).copy()
            bad[rng.randrange(len(bad))] = rng.choice((np.nan, np.inf, -np.inf, 3e38))
            _write_policy(path, header, bad.tobytes())
        case _:
            _write_policy(path, _structure(rng, header), body)
    return rng.choice(
        (
            ["eval", str(path), "--episodes", "2"],
            ["eval", str(path), "--episodes", "2", "--json"],
            [
                "train",
                "cartpole",
                "--preset",
                "debug",
                "--init",
                str(path),
                "--dry-run",
                "--no-timing",
            ],
            ["plot", str(path)],
        )
    )


def _write_policy(path: Path, header: Any, body: bytes) -> None:
    text = _json(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def _run(rng: random.Random, place: Path, outside: Path) -> list[str]:
    run = rng.choice(("run", "finished"))
    _mutated_run(rng, place / run, outside)
    return rng.choice(
        (
            ["resume", run],
            ["resume", run],
            ["resume", run, "--iterations", str(ITERATIONS)],
            ["eval", run, "--episodes", "2"],
            ["plot", run],
            ["plot", run, "finished", "--out", "p.png"],
            ["runs", "."],
            ["train", "cartpole", "--preset", "debug", "--out", run, "--dry-run", "--no-timing"],
        )
    )


def _checkpoint(rng: random.Random, place: Path, outside: Path) -> list[str]:
    folder = place / "run" / "checkpoints" / f"{ITERATIONS:012}"
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = rng.choice([path for path in files if path.parent.name == "d"] or files)
    if rng.random() < 0.5:
        path = rng.choice(files)
    match rng.randrange(5):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case 2:
            _remove(path.parent)
        case _:
            path.write_bytes(_bytes(rng, path.read_bytes()))
    chosen = [] if rng.random() < 0.8 else ["--checkpoint", str(rng.choice((1, 2, 3, 9)))]
    return ["resume", "run", *chosen]


def _plan(rng: random.Random, place: Path, outside: Path) -> list[str]:
    folder = place / "comparison"
    inner = [path for path in (folder / "runs").iterdir() if path.is_dir()]
    if rng.random() < 0.4:
        _mutated_file(rng, folder / "experiment.json", outside)
    elif rng.random() < 0.2:
        name = rng.choice(("figure.png", "summary.json", "results.csv", "report.md", "runs"))
        _remove(folder / name)
        (folder / name).symlink_to(outside / rng.choice(("precious", "new", "")))
    else:
        _mutated_run(rng, rng.choice(inner), outside)
    words = ["compare", "cartpole", "--methods", *METHODS_COMPARED, "--seeds", "1"]
    return [*words, "--env-steps", str(BUDGET), "--preset", "debug", "--out", "comparison"]


KINDS: dict[str, Callable[[random.Random, Path, Path], list[str]]] = {
    "config": _config,
    "options": _options,
    "policy": _policy,
    "run": _run,
    "checkpoint": _checkpoint,
    "plan": _plan,
}
SHARES = {"config": 400, "options": 250, "policy": 200, "run": 250, "checkpoint": 120, "plan": 80}
"""Inputs of each kind among 1,300."""


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def plan(count: int) -> list[tuple[str, int]]:
    """So many inputs, kinds mixed in proportion to `SHARES`."""
    total = sum(SHARES.values())
    numbers = {kind: max(1, round(share * count / total)) for kind, share in SHARES.items()}
    return [(kind, i) for kind, most in numbers.items() for i in range(most)]


def _script() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS))
    parser.add_argument("--start", type=int, default=0, help="of the numbers of each kind")
    parser.add_argument("--show", action="store_true", help="every answer")
    parser.add_argument("--seconds", type=float, default=1e9, help="ends after so many")
    asked = parser.parse_args()
    cases = [case for case in plan(asked.count) if asked.kind in (None, case[0])]
    cases = [(kind, number) for kind, number in cases if number >= asked.start]
    begin, wrong = time.monotonic(), collections.Counter[str]()
    done = collections.Counter[str]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder).resolve() / "f", asked.seed)
        print(f"prepared in {time.monotonic() - begin:.0f} s", flush=True)
        for kind, number in cases:
            if time.monotonic() - begin > asked.seconds:
                print(f"time is up before {kind} {number}")
                break
            done[kind] += 1
            if found := fuzzer.try_one(kind, number):
                wrong[found.problem] += 1
                print(f"{kind} {number}: {found.problem}: {found.detail}"[:700], flush=True)
            elif asked.show:
                print(f"{kind} {number}: {fuzzer.answer}", flush=True)
        codes = dict(sorted(fuzzer.codes.items()))
    print(f"{sum(done.values())} inputs {dict(done)}, exit codes {codes}, wrong: {dict(wrong)}")
    print(f"{time.monotonic() - begin:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    assert METHODS.names()
    sys.exit(_script())
