"""What lies in a run's folder: policies, metrics, the lock, and what happens to broken ones."""

import errno
import fcntl
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tensorboardX.proto.event_pb2 import Event

import epvf
from epvf import files
from epvf.analysis.evaluation import act
from epvf.cli.main import main
from epvf.config.schema import Config
from epvf.errors import RunFailed, UserError
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import FORMAT, save_policy
from epvf.policies.mlp import Policy
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.folder import Run, check_free, default_path, read_info
from epvf.runs.metrics import MetricsLog, read_metrics, truncate
from epvf.runs.recorder import MAX_NONFINITE
from epvf.training.loop import init_state
from epvf.training.prepare import prepare
from probes import FormulaTask, config_of, recorded

POLICY = Policy((4, 8, 8, 2), "elu", "argmax")


def _policy_file(path, policy=POLICY, **metadata):
    theta = np.random.default_rng(0).normal(size=policy.num_parameters).astype(np.float32)
    save_policy(path, policy, theta, "cartpole", 123.5, metadata)
    return theta


# --- policies


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    activation=st.sampled_from(["tanh", "relu", "elu"]),
    output=st.sampled_from(["argmax", "clip", "tanh"]),
)
def test_a_policy_survives_its_file(sizes, activation, output, tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "p.safetensors"
    policy = Policy(tuple(sizes), activation, output)
    theta = _policy_file(path, policy, seed=3)
    saved = load_policy(path)
    assert saved.policy == policy and saved.task == "cartpole"
    np.testing.assert_array_equal(saved.theta, theta)
    assert saved.metadata["seed"] == "3" and float(saved.metadata["episode_return"]) == 123.5


def test_ten_lines_of_numpy_run_the_policy(tmp_path):
    path = tmp_path / "p.safetensors"
    theta = _policy_file(path, Policy((4, 8, 8, 2), "tanh", "clip"))
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)

    tensors = load_file(path)
    x = observations
    for i in range(len(tensors) // 2):
        x = x @ tensors[f"layer{i}.kernel"] + tensors[f"layer{i}.bias"]
        if i < len(tensors) // 2 - 1:
            x = np.tanh(x)
    actions = np.clip(x, -1, 1)

    policy = load_policy(path).policy
    layers = policy.unravel(theta)
    expected = jax.vmap(lambda observation: policy.apply(layers, observation))(observations)
    np.testing.assert_allclose(actions, expected, atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("output", ["argmax", "clip", "tanh"])
def test_the_numpy_policy_acts_like_the_jax_policy(activation, output):
    policy = Policy((4, 8, 3), activation, output)
    theta = np.asarray(policy.init(jax.random.key(1), "lecun_uniform", 3.0))
    layers = policy.unravel(theta)
    for observation in np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32):
        expected = policy.apply(layers, observation)
        np.testing.assert_allclose(act(policy, layers, observation), expected, atol=1e-6)


def _tensors(**changes):
    whole = {
        "layer0.kernel": np.zeros((4, 3), np.float32),
        "layer0.bias": np.zeros(3, np.float32),
        "layer1.kernel": np.zeros((3, 2), np.float32),
        "layer1.bias": np.zeros(2, np.float32),
    }
    return {name: tensor for name, tensor in (whole | changes).items() if tensor is not None}


METADATA = {"format": FORMAT, "task": "cartpole", "activation": "tanh", "action": "argmax"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (_tensors(), {}, "has format None, but a policy has 'epvf-policy/1'"),
        (_tensors(), {"format": "epvf-policy/9"}, "has format 'epvf-policy/9'"),
        (_tensors(), METADATA | {"activation": "gelu"}, "activation is 'gelu'"),
        (_tensors(), METADATA | {"action": "sample"}, "action is 'sample'"),
        (_tensors(**{"layer1.bias": None}), METADATA, "3 tensors"),
        ({}, METADATA, "0 tensors"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, METADATA, "layer0.kernel is missing"),
        (_tensors(**{"layer0.bias": np.zeros(4, np.float32)}), METADATA, "layer0 has kernel"),
        (_tensors(**{"layer0.kernel": np.zeros(3, np.float32)}), METADATA, "layer0 has kernel"),
        (_tensors(**{"layer1.kernel": np.zeros((9, 2), np.float32)}), METADATA, "takes 9 inputs"),
        (_tensors(**{"layer0.bias": np.zeros(3)}), METADATA, "layer0 is not float32"),
    ],
)
def test_foreign_policy_files_are_refused(tensors, metadata, message, tmp_path):
    path = tmp_path / "p.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match=message):
        load_policy(path)


def test_unreadable_policy_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(UserError, match="there is no policy file"):
        load_policy(path)
    with pytest.raises(UserError, match="there is no policy file"):
        load_policy(tmp_path)
    _policy_file(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot read policy"):
        load_policy(path)


def test_the_library_offers_what_the_readme_uses(tmp_path):
    path = tmp_path / "p.safetensors"
    policy = epvf.Policy((4, 2), output="argmax")
    epvf.save_policy(path, policy, np.zeros(policy.num_parameters), "cartpole", 1.0)
    assert epvf.load_policy(path).policy == policy
    assert epvf.make(epvf.preset("cartpole").task.name).spec.action_size == 2
    assert set(epvf.__all__) <= {*dir(epvf), *epvf._HOMES}
    with pytest.raises(AttributeError, match="nothing"):
        epvf.nothing  # noqa: B018


# --- files


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_json_that_is_no_object_is_refused(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError):
        files.read_json(path)


# --- metrics


def _lines(*updates):
    return "".join(f'{{"steps/update": {update}, "x": 0.5}}\n' for update in updates)


@pytest.mark.parametrize(
    ("content", "update", "left"),
    [
        (_lines(1, 2, 3), 3, _lines(1, 2, 3)),
        (_lines(1, 2, 3), 9, _lines(1, 2, 3)),
        (_lines(1, 2, 3), 2, _lines(1, 2)),
        (_lines(1, 1, 2, 2), 1, _lines(1, 1)),
        (_lines(1, 2, 3), 0, ""),
        (_lines(1, 2) + '{"steps/upd', 2, _lines(1, 2)),
        (_lines(1, 2) + '{"steps/update": 3}', 3, _lines(1, 2)),
        (_lines(1) + "\0\0\0\n", 2, _lines(1)),
        ("", 5, ""),
    ],
)
def test_truncating_leaves_whole_lines_up_to_the_update(content, update, left, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    truncate(path, update)
    assert path.read_text() == left


def test_metrics_of_a_run_being_written_are_read_up_to_the_last_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(_lines(1, 2) + '{"steps')
    assert [r["steps/update"] for r in read_metrics(path)] == [1, 2]


def test_the_log_goes_on_after_the_update_that_it_is_given(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for start, updates in ((0, (1, 2, 3)), (2, (3, 4))):
        log = MetricsLog(tmp_path, Config(), start)
        log.write([_record(update) | {"x": float("nan")} for update in updates])
        log.sync()
        log.close()
    assert read_metrics(path) == [_record(update) | {"x": None} for update in (1, 2, 3, 4)]
    assert len(list((tmp_path / "tb").iterdir())) == 2


def _record(update):
    return {"steps/update": update, "steps/env": 100 * update, "time/wall": 0.5, "y": -1.0}


def test_tensorboard_counts_env_steps_and_tells_the_configuration(tmp_path):
    for start, updates in ((0, (1, 2, 3)), (2, (3, 4))):
        log = MetricsLog(tmp_path, Config(seed=3, num_seeds=2), start)
        log.write([_record(update) | {"seed": seed} for update in updates for seed in (3, 4)])
        log.close()
    first, second = sorted(
        (tmp_path / "tb" / "seed4").iterdir(), key=lambda file: file.stat().st_mtime
    )
    content = first.read_bytes()
    assert b"| perturbation.scale | 0.3 |" in content and b"| seed | 3 |" in content

    def events(file):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event()
            event.ParseFromString(content[12 : 12 + size])
            yield event
            content = content[16 + size :]

    steps = [e.step for e in events(first) if e.summary.value and e.summary.value[0].tag == "y"]
    assert steps == [100, 200, 300]
    after = list(events(second))
    steps = [e.step for e in after if e.summary.value and e.summary.value[0].tag == "y"]
    # what is of after the checkpoint is dropped there
    assert steps == [300, 400] and 201 in [e.step for e in after if e.session_log.status]


# --- the folder


def test_a_folder_is_made_once_and_opened_by_one(tmp_path):
    path = tmp_path / "a" / "run"
    run = Run.create(path, Config(), ["epvf"])
    assert read_info(path)["status"] == "running"
    with pytest.raises(UserError, match="exists already"):
        Run.create(path, Config(), ["epvf"])
    with pytest.raises(UserError, match="in use by another process"):
        Run.open(path)
    run.close()
    again = Run.open(path)
    assert again.config == Config()
    again.resumed(["epvf", "resume"])
    again.ended("finished")
    again.close()
    info = read_info(path)
    assert info["status"] == "finished" and info["resumed"][0]["argv"] == ["epvf", "resume"]


def test_an_empty_folder_may_become_a_run(tmp_path):
    check_free(tmp_path)
    Run.create(tmp_path, Config(), []).close()


def test_default_names_do_not_collide(workplace):
    runs = [Run.create_default(Config(), "tuned", []) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        assert run.path.parent == Path("runs/cartpole") and "-tuned-s0" in run.path.name
        run.close()


def test_default_names_tell_the_method_and_are_names_of_folders():
    config = config_of("openes", {}, seed=4)
    assert default_path(config, "paper").name.endswith("-openes-paper-s4")
    own = config.replace({"task.name": "../my tasks.py:make"})
    assert default_path(own, "paper").parent == Path("runs/my-tasks.py-make")


def test_folders_that_are_no_runs_of_this_version_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no run"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="has format None"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "epvf-run/1"}')
    with pytest.raises(UserError, match="cannot read config"):
        Run.open(tmp_path)


# --- recording


def _fails_for_one(thetas):
    returns = thetas.sum(-1)
    returns[3] = np.nan
    return returns


SOMETIMES = FormulaTask(_fails_for_one, traceable=False)


def _run(path, task, **delta):
    return recorded(path, config_of(**({"iterations": 12} | delta)), task)


def test_policies_that_turn_non_finite_are_counted_and_kept_up_to_a_few(tmp_path):
    outcome = _run(tmp_path, SOMETIMES)
    assert outcome.status == "finished" and outcome.iterations == 12
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["rollout/nonfinite"] for r in records] == [1] * 12
    assert all(r["loss/value"] is not None for r in records)
    kept = sorted((tmp_path / "nan").iterdir())
    assert len(kept) == MAX_NONFINITE
    assert np.isfinite(load_policy(kept[0]).theta).all()


def test_the_best_policy_is_the_one_that_was_measured_best(tmp_path):
    _run(tmp_path, FormulaTask(lambda t: t.sum(-1), traceable=False))
    best = load_policy(tmp_path / "policies" / "best.safetensors")
    measured = max(r["eval/episode_return"] for r in read_metrics(tmp_path / "metrics.jsonl"))
    assert float(best.metadata["episode_return"]) == measured
    # Evaluated on copies jittered by a thousandth.
    assert best.theta.sum() == pytest.approx(measured, rel=0.02)
    last = load_policy(tmp_path / "policies" / "last.safetensors")
    assert last.metadata["episode_return"] == "nan" and last.metadata["update"] == "12"


def test_only_the_newest_checkpoints_stay(tmp_path):
    task = FormulaTask(lambda t: t.sum(-1), traceable=False)
    _run(tmp_path, task, **{"checkpoint.every_iterations": 2, "checkpoint.keep": 3})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000000009", "000000000011", "000000000012"]


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")])
def test_running_out_of_memory_is_told_in_words(error, tmp_path):
    def fail(thetas):
        raise error

    with pytest.raises(RunFailed, match="out of memory; lower num_envs"):
        _run(tmp_path, FormulaTask(fail, traceable=False))
    assert read_info(tmp_path)["status"] == "failed"


def test_errors_of_a_task_are_not_swallowed(tmp_path):
    def fail(thetas):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run(tmp_path, FormulaTask(fail, traceable=False))
    assert read_info(tmp_path)["status"] == "failed"


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    def learner(**delta):
        return init_state(prepare(config_of(**delta), SOMETIMES))

    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.latest is None and checkpoints.restore(learner().learner) is None
    checkpoints.save(learner())
    assert checkpoints.latest == tmp_path / "000000000000"
    for name, value in (
        ("value.hidden_sizes", [3]),
        ("value.hidden_sizes", []),
        ("policy.hidden_sizes", [3]),
    ):
        with pytest.raises(UserError, match="of another version of epvf: "):
            checkpoints.restore(learner(**{name: value}).learner)
    restored = checkpoints.restore(learner(seed=1).learner)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(learner()), strict=True):
        np.testing.assert_array_equal(a, b)
    checkpoints.close()


def test_a_broken_run_is_told_in_one_line(workplace, capsys):
    Path("run").mkdir()
    Path("run/run.json").write_text('{"format": "epvf-run/1", "status": "running"')
    assert main(["resume", "run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_lock_is_given_back_when_the_configuration_cannot_be_written(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    monkeypatch.setattr("epvf.runs.folder.write_json", full)
    with pytest.raises(UserError, match="No space left"):
        Run.create(tmp_path / "run", Config(), [])
    after = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    assert len(after) <= len(before)


def test_a_file_system_without_locks_is_tolerated(tmp_path, monkeypatch):
    def without_locks(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", without_locks)
    Run.create(tmp_path / "run", Config(), []).close()
    Run.open(tmp_path / "run").close()


def test_a_folder_that_another_process_is_making_is_left_alone(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "half-made").touch()
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="in use by another process"):
        Run.remake(path, Config(), [])
    assert (path / "half-made").exists()
    os.close(handle)
    Run.remake(path, Config(), []).close()
    assert not (path / "half-made").exists()
