"""The configuration: one meaning in Python, JSON, YAML, and nothing wrong gets in."""

import dataclasses
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epvf.config.presets import PRESETS, TASKS, preset
from epvf.config.schema import Config, flatten, from_dict, load, replace, to_dict
from epvf.errors import UserError

ALL_PRESETS = [(task, name) for task in TASKS for name in PRESETS]

DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 2),
        "iterations": st.integers(1, 10**9),
        "env_steps": st.none() | st.integers(1, 10**12),
        "policy.hidden_sizes": st.lists(st.integers(1, 512), max_size=4),
        "policy.activation": st.sampled_from(["tanh", "relu", "elu"]),
        "perturbation.scale": st.floats(0, 1e6, allow_subnormal=False),
        "perturbation.clip": st.none() | st.floats(1e-6, 1e6),
        "perturbation.antithetic": st.booleans(),
        "checkpoint.every_minutes": st.none() | st.floats(1e-6, 1e6),
    },
)


@given(DELTAS)
def test_any_configuration_survives_json_and_yaml(delta):
    config = replace(Config(), delta)
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize(("task", "name"), ALL_PRESETS)
def test_presets_survive_a_file(task, name, tmp_path):
    config = preset(task, name)
    for suffix, dump in ((".json", json.dumps), (".yaml", yaml.safe_dump)):
        path = tmp_path / f"config{suffix}"
        path.write_text(dump(to_dict(config)))
        assert load(path) == config


def test_a_file_changes_only_what_it_names(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("seed: 3\nvalue_update:\n  learning_rate: 1e-2\n")
    base = preset("ant", "debug")
    changed = load(path, base)
    assert changed.value_update.learning_rate == 1e-2
    different = {k for k, v in flatten(changed).items() if flatten(base)[k] != v}
    assert different == {"seed", "value_update.learning_rate"}


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("cartpole").policy.activation = "relu"  # type: ignore[misc]


def test_flatten_and_replace_are_inverse():
    config = preset("ant", "paper")
    assert replace(Config(), flatten(config)) == config


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ({"sed": 1}, ["'sed'", "did you mean 'seed'", "num_envs"]),
        ({"policy.hidden": 1}, ["'hidden'", "of policy", "hidden_sizes"]),
        ({"policy": 3}, ["policy must be a mapping", "3"]),
        ({"seed": "x"}, ["seed must be of type int", "'x'"]),
        ({"seed": True}, ["seed must be of type int"]),
        ({"seed": None}, ["seed must be of type int", "None"]),
        ({"num_envs": 2.5}, ["num_envs must be of type int", "2.5"]),
        ({"perturbation.scale": "big"}, ["perturbation.scale must be a number", "'big'"]),
        ({"perturbation.antithetic": 1}, ["perturbation.antithetic must be of type bool"]),
        ({"policy.hidden_sizes": 64}, ["policy.hidden_sizes must be a list", "64"]),
        ({"policy.hidden_sizes": [64, "x"]}, ["policy.hidden_sizes must be of type int"]),
        ({"policy.activation": "tan"}, ["policy.activation", "did you mean 'tanh'", "relu"]),
        ({"task.backend": "cuda"}, ["task.backend", "native", "mjx"]),
        ({"num_envs": 0}, ["num_envs is 0", "greater than 0"]),
        ({"seed": -1}, ["seed is -1", "at least 0"]),
        ({"seed": 2**31}, ["seed", "too large"]),
        ({"policy.hidden_sizes": [64, 0]}, ["policy.hidden_sizes is 0"]),
        ({"perturbation.scale": float("nan")}, ["perturbation.scale is nan", "finite"]),
        ({"value_update.learning_rate": float("inf")}, ["value_update.learning_rate is inf"]),
        ({"buffer.size": 8}, ["value_update.batch_size", "larger than buffer.size 8"]),
        ({"policy.num_centres": 3}, ["num_envs 4096", "multiple of policy.num_centres 3"]),
        ({"num_envs": 2**31}, ["num_envs is too large", "the largest is 2147483647"]),
        ({"iterations": 10**999}, ["iterations is too large", "2147483647"]),
        ({"num_seeds": 2**31}, ["num_seeds is too large", "2147483647"]),
        ({"buffer.store": "seeds", "buffer.size": 5000}, ["multiple of num_envs 4096", "5000"]),
        ({"buffer.store": "seeds", "policy.num_centres": 2}, ["single policy centre", "2 centres"]),
        ({"num_envs": 3, "perturbation.antithetic": True}, ["even number"]),
        ({"policy_update.final_learning_rate": 1.0}, ["final_learning_rate", "decays"]),
    ],
)
def test_what_is_wrong_is_refused_in_words(delta, words):
    with pytest.raises(UserError) as caught:
        replace(Config(), delta)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1, 2]", "not a mapping"),
        (b"a: [1", "cannot read config"),
        (b"\x80\x81", "cannot read config"),
        (b"", "not a mapping"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content, words, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "guess"), [(("cartpol",), "cartpole"), (("ant", "tune"), "tuned")]
)
def test_unknown_presets_and_tasks_are_refused_with_a_guess(arguments, guess):
    with pytest.raises(UserError, match=f"did you mean '{guess}'"):
        preset(*arguments)
