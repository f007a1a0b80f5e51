"""Training from Python: one call, one result, wherever it is called."""

import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import epvf
from conftest import SOURCE
from epvf.config.presets import preset
from epvf.errors import RunFailed, UserError
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Layer, Policy
from epvf.runs.folder import Run, read_config, read_info
from epvf.runs.metrics import read_metrics
from epvf.training.state import TrainingDiverged
from probes import KEYS, FormulaTask, config_of, untimed

SUM = FormulaTask(lambda t: t.sum(-1))
HOST_SUM = FormulaTask(lambda t: t.sum(-1), traceable=False)

BALANCE = Policy((4, 2), output="argmax")
"""Of CartPole."""


def _cartpole(method, **delta):
    """Quick, with linear policies."""
    delta = {"policy.hidden_sizes": [], "eval.interval": 1, "eval.episodes": 16} | delta
    return preset("cartpole", "debug", method).replace(delta)


def _balancing() -> SavedPolicy:
    """A policy that pushes to where the pole falls: far better than any that is drawn."""
    to_the_right = np.array([0.1, 0.4, 1.0, 1.0], np.float32)
    kernel = np.stack([-to_the_right, to_the_right], axis=1)
    theta = np.asarray(BALANCE.ravel([Layer(kernel, np.zeros(2, np.float32))]))
    return SavedPolicy(BALANCE, theta, "cartpole", {})


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_result_is_the_best_policy_and_every_record(task, workplace):
    result = epvf.train(config_of(iterations=4, num_seeds=2), task)
    assert isinstance(result, epvf.Result) and result.run is None
    assert [r["steps/update"] for r in result.records] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [r["seed"] for r in result.records] == 4 * [0, 1]
    assert all(record.keys() == KEYS | {"seed"} for record in result.records)
    assert result.theta.shape == (result.policy.num_parameters,)
    assert isinstance(result.theta, np.ndarray) and result.theta.dtype == np.float32
    best = max(record["eval/episode_return"] for record in result.records)
    # evaluated on copies jittered by a thousandth
    assert result.theta.sum() == pytest.approx(best, rel=0.02, abs=2e-3)
    assert list(workplace.iterdir()) == []


def test_a_folder_holds_what_the_result_holds(workplace):
    config = config_of(iterations=3, **{"eval.interval": 2})
    result = epvf.train(config, SUM, out="run")
    assert result.run is not None and read_info(result.run)["status"] == "finished"
    assert result.records == read_metrics(workplace / "run" / "metrics.jsonl")
    saved = load_policy(workplace / "run" / "policies" / "best.safetensors")
    np.testing.assert_array_equal(saved.theta, result.theta)
    assert read_config(result.run).task.name == "formula"
    # unlocked again
    Run.open(result.run).close()
    silent = epvf.train(config, SUM)
    assert untimed(silent.records) == untimed(result.records)
    np.testing.assert_array_equal(silent.theta, result.theta)
    # what is not known is null, in both
    assert silent.records[0]["policy/realized_gain"] is None
    assert silent.records[1]["eval/episode_return"] is None
    assert json.loads(json.dumps(silent.records, allow_nan=False)) == silent.records
    with pytest.raises(UserError, match="run exists already"):
        epvf.train(config, SUM, out="run")


@pytest.mark.slow
def test_it_is_silent_where_nobody_looks(tmp_path):
    code = (
        "import epvf; config = epvf.preset('cartpole', 'debug').replace({'iterations': 2});"
        "assert len(epvf.train(config).records) == 2;"
        "assert epvf.train(config, out='run').run.is_dir()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("out", [None, "run"])
def test_it_works_in_a_thread(out, workplace):
    config, found = config_of(iterations=3), []
    thread = threading.Thread(target=lambda: found.append(epvf.train(config, HOST_SUM, out=out)))
    thread.start()
    thread.join()
    (result,) = found
    expected = epvf.train(config, HOST_SUM)
    assert untimed(result.records) == untimed(expected.records)
    np.testing.assert_array_equal(result.theta, expected.theta)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_early_with_what_there_is(number):
    calls = []

    def formula(thetas):
        calls.append(len(thetas))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return thetas.sum(-1)

    before = signal.getsignal(number)
    result = epvf.train(config_of(iterations=50), FormulaTask(formula, traceable=False))
    assert [r["steps/update"] for r in result.records] == [1, 2] and len(calls) == 3
    assert np.isfinite(result.theta).all()
    assert signal.getsignal(number) is before


def test_ctrl_c_before_there_is_anything_is_a_keyboard_interrupt():
    def formula(thetas):
        os.kill(os.getpid(), signal.SIGINT)
        return thetas.sum(-1)

    with pytest.raises(KeyboardInterrupt):
        epvf.train(config_of(iterations=50), FormulaTask(formula, traceable=False))


@pytest.mark.parametrize("out", [None, "run"])
def test_what_goes_wrong_is_told_in_words(out, workplace):
    delta = {"value_update.learning_rate": 1e38, "value_update.optimizer": "sgd", "iterations": 9}
    diverging = FormulaTask(lambda t: 1e30 * t.sum(-1))
    with pytest.raises(RunFailed, match="was not finite") as caught:
        epvf.train(config_of(**delta), diverging, out=out)
    assert out or isinstance(caught.value, TrainingDiverged)

    def fail(thetas):
        raise MemoryError

    with pytest.raises(RunFailed, match="memory"):
        epvf.train(config_of(), FormulaTask(fail, traceable=False), out=out and "other")


# --- from a policy


@pytest.mark.parametrize(
    "method", ["epvf", *(pytest.param(m, marks=pytest.mark.slow) for m in ("psvf", "openes"))]
)
def test_it_starts_from_the_policy_that_it_is_given(method, workplace):
    config, init = _cartpole(method, iterations=1), _balancing()
    (drawn,) = epvf.train(config).records
    assert drawn["eval/episode_return"] < 120.0
    result = epvf.train(config, init=init, out="run")
    (given,) = result.records
    assert given["eval/episode_return"] > 180.0
    np.testing.assert_array_equal(result.theta, init.theta)
    kept = load_policy(workplace / "run" / "policies" / "init.safetensors")
    np.testing.assert_array_equal(kept.theta, init.theta)
    run = Run.open(workplace / "run")
    np.testing.assert_array_equal(run.initial, init.theta)
    run.close()


@pytest.mark.slow
def test_v_of_states_leaves_it_as_it_is_while_it_measures_observations():
    # a policy that is drawn begins in units of observations that the first population measures
    config, init = _cartpole("psvf", iterations=2), _balancing()
    records = epvf.train(config, init=init).records
    assert records[0]["policy/step_norm"] == 0.0 < records[1]["policy/step_norm"]
    assert records[1]["eval/episode_return"] > 180.0


@pytest.mark.parametrize("wrong", [Policy((4, 3, 2), output="argmax"), Policy((4, 2), "relu")])
def test_a_policy_of_another_shape_is_refused_with_both(wrong, workplace):
    theta = np.zeros(wrong.num_parameters, np.float32)
    saved = SavedPolicy(wrong, theta, "cartpole", {})
    with pytest.raises(UserError) as caught:
        epvf.train(_cartpole("epvf"), init=saved, out="run")
    assert f"is {wrong.describe()}, but" in str(caught.value)
    assert f"{BALANCE.describe()}; use --policy.hidden-sizes" in str(caught.value)
    assert list(workplace.iterdir()) == []


def test_an_agent_does_not_start_from_a_policy():
    with pytest.raises(UserError, match="'ppo' does not start from a given policy"):
        epvf.train(_cartpole("ppo", **{"policy.activation": "tanh"}), init=_balancing())


@pytest.mark.slow
@pytest.mark.parametrize("out", [None, "run"])
def test_agents_train_through_the_same_call(out, workplace):
    result = epvf.train(preset("cartpole", "debug", "ppo"), out=out)
    assert [r["steps/update"] for r in result.records] == list(range(1, 11))
    assert all(record.keys() >= KEYS for record in result.records)
    assert result.policy == Policy((4, 8, 2), "elu", "argmax")
    assert np.isfinite(result.theta).all() and result.theta.any()
    known = [r["eval/episode_return"] for r in result.records]
    assert sum(value is not None and math.isfinite(value) for value in known) == 3
