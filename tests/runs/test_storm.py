"""A few runs that are ended anywhere; `tests/storm.py` as a script ends hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SOURCE


@pytest.mark.slow
def test_nothing_is_lost_at_signals_and_kills(tmp_path):
    # in a process that has not started JAX, which it forks
    words = ["--kills", "2", "--signals", "2", "--iterations", "6", "--methods", "epvf"]
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "storm.py", *words],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong: 0" in done.stdout
