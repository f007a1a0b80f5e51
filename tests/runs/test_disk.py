"""On a full disk a run ends with its last good checkpoint, and goes on once there is room."""

import errno
import os
import shutil
from pathlib import Path
from pkgutil import resolve_name

import pytest

from epvf.cli.main import main
from epvf.errors import RunFailed
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.folder import Run, current_info
from epvf.runs.recorder import record
from epvf.runs.train import _Silent
from epvf.training.prepare import prepare
from probes import FormulaTask, assert_same_run, config_of

pytestmark = pytest.mark.slow

TASK = FormulaTask(lambda t: t.sum(-1), traceable=False)
ITERATIONS = 4


def _setup():
    delta = {"checkpoint__every_iterations": 1, "checkpoint__keep": 2, "eval__interval": 1}
    return prepare(config_of(iterations=ITERATIONS, **delta), TASK)


def _train(path: Path) -> None:
    run = Run.open(path) if path.exists() else Run.create(path, _setup().config, ["epvf"])
    try:
        record(run, _setup(), _Silent())
    finally:
        run.close()


def _full(*anything, **more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FullFrom:
    """A function that finds the disk full at every call from some number on."""

    def __init__(self, function, calls):
        self._function, self._left = function, calls

    def __call__(self, *arguments, **more):
        self._left -= 1
        if self._left < 0:
            _full()
        return self._function(*arguments, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    _train(run)
    return run


@pytest.mark.parametrize(
    ("place", "name", "calls"),
    [
        ("epvf.runs.checkpoints:ocp.CheckpointManager", "save", 2),
        ("epvf.runs.metrics:os", "write", 2),
        ("epvf.runs.sinks:TensorBoard", "flush", 2),
        ("epvf.runs.recorder", "save_policy", 3),
    ],
)
def test_a_run_ends_with_its_last_good_checkpoint_and_goes_on_later(
    place, name, calls, whole, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as full:
        owner = resolve_name(place)
        limited = _FullFrom(getattr(owner, name), calls)
        full.setattr(owner, name, lambda *a, **k: limited(*a, **k))
        with pytest.raises(RunFailed, match=r"No space left.*; last good checkpoint: .*\d{12}$"):
            _train(run)
    assert current_info(run)["status"] == "failed"
    saved = [path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    assert saved and max(saved) < f"{ITERATIONS:012}"
    _train(run)
    assert_same_run(run, whole)


def test_where_even_the_end_cannot_be_noted_the_next_command_says_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as full:
        full.setattr(Checkpoints, "save", _full)
        full.setattr("epvf.runs.folder.Run.ended", _full)
        with pytest.raises(RunFailed, match=r"No space left.*; there is no checkpoint yet"):
            _train(run)
    assert '"running"' in (run / "run.json").read_text()
    assert current_info(run)["status"] == "interrupted"


def test_what_checkpoints_take_and_whether_they_fit_is_told_first(workplace, monkeypatch, capsys):
    usage = shutil.disk_usage(workplace)._replace(free=99)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    words = ["train", "cartpole", "--preset", "debug", "--iterations", "1", "--no-report"]
    assert main([*words, "--out", "run"]) == 0
    err = capsys.readouterr().err
    assert "a checkpoint takes up to" in err and "do NOT fit" in err
    assert err.index("do NOT fit") < err.index("iteration 1/1")
