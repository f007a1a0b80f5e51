"""What every test runs under: no silent broadcasting, and programs compiled once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import settings

import contracts

SOURCE = Path(__file__).resolve().parents[1] / "src"

# Annotated shapes and types are checked at every call, unless EPVF_CONTRACTS is 0. This has to be
# set up before the library is imported.
if os.environ.get("EPVF_CONTRACTS", "1") != "0":
    contracts.install()

# Rank promotion would hide a V of shape [B, 1]. Subprocesses see it through the environment.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling is most of what tests do; programs so small run fast enough without being optimised.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
jax.config.update("jax_disable_most_optimizations", QUICK)
# XLA's older way to write loops takes half the time; processes that tests start see it, too. From
# 0.11 on there is one way only, and XLA ends a process at a flag that it does not know.
if QUICK and jax.__version_info__ < (0, 11):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".lstrip()

# What was ignored when the tests were started (in the background, say) would be for programs that
# they start, too, and nothing could be said of what a signal does.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)

# The first example of a property compiles; its time says nothing. A change is judged by the same
# examples everywhere; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("epvf", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "epvf"))


def pytest_configure(config):
    """Keeps compiled programs between tests, processes and test runs."""
    folder = os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(config.rootpath / ".pytest_cache" / "jax")
    )
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Epvf:
    """The command line in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments):
        """Runs to the end."""
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def start(self, *arguments):
        """Starts and returns the process."""
        paths = [str(SOURCE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return subprocess.Popen(
            [sys.executable, "-m", "epvf", *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def epvf(tmp_path):
    """`epvf("train", "cartpole")` runs the command line in an empty folder."""
    return Epvf(tmp_path)


@pytest.fixture
def loose():
    """Annotations are not checked: for what the library itself refuses, in words."""
    with contracts.loose():
        yield


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
