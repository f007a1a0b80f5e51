"""The command line as a whole: help, version, exit codes, how long it takes to start."""

import os
import subprocess
import sys
from importlib import import_module

import pytest

from conftest import SOURCE
from epvf import __version__
from epvf.cli import arguments
from epvf.cli.main import COMMANDS, main

HEAVY = ("jax", "mujoco", "gymnasium", "matplotlib", "numpy", "tyro")


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_is_there_at_every_level(words, capsys):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "usage: epvf" in out and err == ""


def test_every_command_is_listed_with_what_its_help_says(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in out
        module = import_module(f"epvf.cli.{command.module}")
        if hasattr(module, "SUBCOMMANDS"):
            assert str(module.__doc__).startswith(f"`epvf {name}`: ")
            continue
        kind = module.Options
        begin = " ".join(command.summary.split()[:2]).strip(".,:")
        assert arguments.about(kind).startswith(begin)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"epvf {__version__}\n"


def test_no_command_and_an_unknown_one(refused):
    refused(["trian"], "unknown command 'trian' (did you mean 'train'?); valid: train, resume")


def _loaded(*commands):
    """Which of the heavy packages are loaded after running these."""
    script = (
        "import sys; from epvf.cli.main import main;"
        f"[main(words) for words in {commands!r}];"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    return done.stderr.splitlines()[-1]


def test_help_is_quick_because_it_loads_nothing_heavy():
    assert _loaded(["--help"], ["--version"], ["nosuch"]) == "[]"
    assert _loaded(["eval", "--help"], ["resume"], ["compare", "--help"]) == "['tyro']"


def test_start_up_takes_no_time():
    def seconds(*words):
        # of the processor: what other processes take of the wall clock is not ours
        process = subprocess.Popen(
            [sys.executable, *words], env={"PYTHONPATH": str(SOURCE)}, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime

    bare = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-c", "import epvf") for _ in range(5)) - bare < 0.05
    assert min(seconds("-m", "epvf", "--help") for _ in range(5)) < 0.25
    assert min(seconds("-m", "epvf", "nosuch") for _ in range(5)) < 0.25


def test_a_process_says_what_is_wrong_in_a_line(epvf):
    done = epvf("train", "cartpole", "--num-envs", "-4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "epvf: error: num_envs is -4; it must be finite and greater than 0\n"


def test_ctrl_c_and_a_reader_that_leaves_are_no_tracebacks(monkeypatch, capsys):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("epvf.cli.plot.run", stop)
    assert main(["plot", "x"]) == 130
    assert capsys.readouterr().err == "epvf: error: interrupted\n"
