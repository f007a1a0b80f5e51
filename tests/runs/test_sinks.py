"""Other places for records."""

import math
import time

import pytest

from epvf.cli.main import main
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.runs import sinks
from epvf.runs.metrics import MetricsLog
from epvf.runs.sinks import Session, check_sinks, open_sink, scalars

RECORD = {"steps/update": 1, "steps/env": 100, "time/wall": 0.5, "x": math.nan, "y": None, "z": 2.0}


def test_an_unknown_sink_and_one_that_is_not_installed_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"unknown place to log to 'wandbb' .did you mean 'wandb'"):
        check_sinks(["wandbb"])
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r'wandb is not installed: pip install "epvf\[wandb\]"'):
        check_sinks(["tensorboard", "wandb"])


def test_a_sink_is_told_every_record_and_closed(tmp_path, monkeypatch):
    told = []

    class Own:
        def __init__(self, session):
            told.append(session)

        def write(self, record):
            told.append(record)

        def flush(self):
            told.append("flush")

        def close(self):
            told.append("close")

    monkeypatch.setitem(sinks.SINKS, "own", Own)
    monkeypatch.setattr(sinks, "_imported", lambda module, extra: None)
    log = MetricsLog(tmp_path, Config(seed=5), 0, ["own"])
    log.write([RECORD])
    log.close()
    session, *rest = told
    assert session == Session(tmp_path, Config(seed=5), range(5, 6), {})
    assert rest == [RECORD, "flush", "close"]
    assert scalars(RECORD) == {"steps/update": 1, "steps/env": 100, "time/wall": 0.5, "z": 2.0}


def test_what_a_service_says_is_one_line(tmp_path, monkeypatch):
    def broken(session):
        raise RuntimeError("no key\nand much more")

    monkeypatch.setitem(sinks.SINKS, "own", broken)
    monkeypatch.setattr(sinks, "_imported", lambda module, extra: None)
    with pytest.raises(UserError, match=r"^own cannot be used: no key$"):
        open_sink("own", Session(tmp_path, Config(), [0], {}))


def test_mlflow_says_what_it_wants_of_a_folder(tmp_path, monkeypatch):
    def broken(session):
        raise RuntimeError("... set `MLFLOW_ALLOW_FILE_STORE=true` to opt out ...")

    monkeypatch.setitem(sinks.SINKS, "mlflow", broken)
    monkeypatch.setattr(sinks, "_imported", lambda module, extra: None)
    with pytest.raises(UserError, match=r"^mlflow keeps files only with MLFLOW_ALLOW_FILE_STORE"):
        open_sink("mlflow", Session(tmp_path, Config(), [0], {}))


def test_a_run_whose_records_nobody_takes_leaves_nothing(workplace, monkeypatch, capsys):
    def broken(session):
        raise RuntimeError("no key")

    monkeypatch.setitem(sinks.SINKS, "own", broken)
    monkeypatch.setattr(sinks, "_imported", lambda module, extra: None)
    words = ["train", "cartpole", "--preset", "debug", "--track", "own", "--out", "run"]
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "epvf: error: own cannot be used: no key"
    assert list(workplace.iterdir()) == []


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sink = open_sink("wandb", Session(tmp_path, Config(), [0], {}))
    sink.write(RECORD)
    sink.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_mlflow_keeps_metrics_over_env_steps(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'ml'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    sink = open_sink("mlflow", Session(tmp_path / "run", Config(), [0], {}))
    sink.write(RECORD)
    sink.close()
    client = tracking.MlflowClient()
    experiment = client.get_experiment_by_name(f"epvf {Config().task.name}")
    (run,) = client.search_runs([experiment.experiment_id])
    (point,) = client.get_metric_history(run.info.run_id, "z")
    assert (point.step, point.value) == (100, 2.0) and run.info.status == "FINISHED"
    assert abs(point.timestamp / 1000 - time.time()) < 600 and run.info.run_name == "run"
    assert run.data.params["num_envs"] == str(Config().num_envs)
