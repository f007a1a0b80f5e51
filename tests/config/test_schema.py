"""The configuration: one meaning in Python, JSON, YAML, and nothing wrong gets in."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.config.presets import PRESETS, preset
from epvf.config.schema import (
    FORMAT,
    Config,
    flatten,
    from_dict,
    leaves,
    load,
    readable,
    readers,
    reads,
    replace,
    to_dict,
)
from epvf.errors import UserError
from epvf.methods.base import Method
from epvf.methods.controls import RidgeSettings
from epvf.methods.epvf import ValueUpdateConfig
from epvf.methods.registry import METHODS, default_settings, register_method
from epvf.types import Fraction
from probes import config_of

EARLIER = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
TASKS = ("cartpole", "ant", "hopper", "halfcheetah")
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


@settings(max_examples=25, deadline=None)
@given(DELTAS)
def test_any_configuration_survives_json_and_yaml(delta):
    config = replace(Config(), delta)
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize("method", [None, *METHODS.names()])
@pytest.mark.parametrize(("task", "name"), ALL_PRESETS)
def test_presets_survive_a_file(task, name, method, tmp_path):
    config = preset(task, name, method)
    for suffix, dump in ((".json", json.dumps), (".yaml", yaml.safe_dump)):
        path = tmp_path / f"config{suffix}"
        path.write_text(dump(to_dict(config)))
        assert load(path) == config


def test_a_file_changes_only_what_it_names(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("seed: 3\nvalue_update:\n  learning_rate: 1e-2\n")
    base = preset("ant", "debug")
    changed = load(path, base)
    assert changed.method.value_update.learning_rate == 1e-2
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


# --- each method's own fields


@pytest.mark.parametrize(
    ("method", "delta", "message"),
    [
        (
            "openes",
            {"buffer.size": 8192},
            "method 'openes' does not read buffer; 'epvf', 'ridge-replay' do: --method epvf",
        ),
        (
            "epvf",
            {"psvf.noise": 0.1},
            "method 'epvf' does not read psvf; 'psvf' does: --method psvf",
        ),
        (
            "ridge",
            {"value_update.steps": 3},
            "method 'ridge' does not read value_update.steps; 'epvf' does: --method epvf",
        ),
        (
            "cmaes",
            {"evolution.learning_rate": 0.5},
            "method 'cmaes' does not read evolution.learning_rate; 'openes', 'pgpe', 'ars' do: "
            "--method openes",
        ),
        (
            "sac",
            {"policy.num_centres": 2},
            "method 'sac' does not read policy.num_centres; 'epvf' does: --method epvf",
        ),
    ],
)
def test_a_field_that_the_method_does_not_read_is_refused_and_who_reads_it_is_told(
    method, delta, message
):
    with pytest.raises(UserError) as caught:
        replace(config_of(method, {}), delta)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("delta", "unread"),
    [
        ({"num_seeds": 2}, "num_seeds"),
        ({"schedule_iterations": 5}, "schedule_iterations"),
        ({"checkpoint.keep": 5}, "checkpoint.keep"),
        ({"policy.init_scale": 0.5}, "policy.init_scale"),
    ],
)
def test_general_fields_that_an_agent_has_no_use_for_are_refused(delta, unread):
    with pytest.raises(UserError, match=f"^method 'ppo' does not read {unread}; 'epvf', 'psvf'"):
        replace(config_of("ppo", {}), delta)


def test_what_is_not_read_is_refused_in_python_as_well():
    own = RidgeSettings(name="ridge", value_update=ValueUpdateConfig(steps=3))
    with pytest.raises(UserError, match=r"'ridge' does not read value_update\.steps"):
        Config(method=own)


def test_defaults_of_what_is_not_read_change_nothing():
    config = config_of("ridge", {})
    assert replace(config, {"value_update.steps": 10, "policy.num_centres": 1}) == config


@pytest.mark.parametrize("method", METHODS.names())
def test_readable_fields_are_those_that_may_be_changed(method):
    config = config_of(method, {})
    shown = readable(config)
    for leaf in leaves(config):
        assert (leaf.name in shown) == reads(method, leaf.name) == (method in readers(leaf.name))
        assert replace(config, {leaf.name: leaf.value}) == config


def test_another_method_starts_from_its_own_defaults():
    start = replace(preset("ant", "paper"), {"seed": 3})
    other = replace(start, {"method": "psvf", "psvf.horizon": 8})
    assert (other.task, other.seed, other.method.psvf.horizon) == (start.task, 3, 8)
    expected = dataclasses.replace(Config(), task=start.task, seed=3)
    expected = dataclasses.replace(expected, method=default_settings("psvf"))
    assert other == replace(expected, {"psvf.horizon": 8})
    assert replace(start, {"method": "epvf"}) == start


def test_a_method_that_does_not_exist_is_refused_with_a_guess():
    with pytest.raises(UserError, match=r"unknown method 'psv' \(did you mean 'psvf'\?\)"):
        replace(Config(), {"method": "psv"})


@dataclasses.dataclass(frozen=True)
class Hill:
    """A group."""

    slopes: tuple[float, ...] = (1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class ClimbSettings:
    """Settings with fields of their own beside a group."""

    name: str = "climb"
    rate: Fraction = 0.5
    rest: int | None = None
    hill: Hill = dataclasses.field(default_factory=Hill)


@pytest.fixture
def climb(monkeypatch):
    """A method of somebody else, for one test."""
    for name in ("_registered", "_loaded"):
        monkeypatch.setattr(METHODS, name, dict(getattr(METHODS, name)))
    register_method("climb", Method(settings=ClimbSettings, summary="up", build=cast(Any, len)))


@pytest.mark.usefixtures("climb")
def test_plain_fields_of_a_method_stand_under_its_name(tmp_path):
    config = replace(Config(), {"method": "climb", "climb.rate": 0.25, "hill.slopes": [3]})
    assert config.method == ClimbSettings(rate=0.25, hill=Hill((3.0,)))
    flat = flatten(config)
    assert (flat["method"], flat["climb.rate"], flat["climb.rest"]) == ("climb", 0.25, None)
    assert "climb.name" not in flat and "buffer.size" not in flat
    assert replace(Config(), flat) == config
    nested = to_dict(config)
    assert nested["climb"] == {"rate": 0.25, "rest": None} and nested["hill"] == {"slopes": [3.0]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(nested))
    assert load(path) == config
    assert readers("climb.rate") == readers("hill.slopes") == ["climb"]
    assert readable(config)["climb.rate"].default == 0.5


@pytest.mark.usefixtures("climb")
@pytest.mark.parametrize(
    ("method", "delta", "message"),
    [
        ("climb", {"climb.rate": 1.5}, "climb.rate is 1.5; it must be at least 0 and at most 1"),
        ("climb", {"climb.rat": 1.0}, "unknown field of climb 'rat' (did you mean 'rate'?)"),
        ("climb", {"climb.name": "x"}, "unknown field of climb 'name'"),
        ("climb", {"climb.rate": "x"}, "climb.rate must be a number, not 'x'"),
        ("climb", {"climb": 1}, "climb must be a mapping of fields to values, not 1"),
        ("climb", {"rate": 1.0}, "unknown field of the config 'rate'"),
        ("epvf", {"climb.rate": 0.1}, "method 'epvf' does not read climb; 'climb' does: --method"),
        ("epvf", {"hill.slopes": [1]}, "method 'epvf' does not read hill; 'climb' does: --method"),
    ],
)
def test_plain_fields_of_a_method_are_checked_like_all_others(method, delta, message):
    with pytest.raises(UserError) as caught:
        replace(config_of(method, {}), delta)
    assert str(caught.value).startswith(message)


# --- ranges


@pytest.mark.parametrize(
    ("method", "name", "inside", "beyond"),
    [
        ("psvf", "psvf.discount", (0.001, 0.999), (0.0, 1.0, -0.1, 1.5)),
        ("psvf", "psvf.gae_lambda", (0.0, 1.0), (-0.1, 1.1)),
        ("ppo", "ppo.discount", (0.0, 1.0), (-0.1, 1.1)),
        ("ppo", "ppo.gae_lambda", (0.0, 1.0), (-0.1, 1.1)),
        ("sac", "sac.discount", (0.0, 1.0), (-0.1, 1.1)),
        ("sac", "sac.tau", (0.0, 1.0), (-0.1, 1.1)),
        ("ars", "evolution.elite_ratio", (0.001, 1.0), (0.0, -0.1, 1.1)),
        ("psvf", "psvf.bound_cost", (0.0, 3.0), (-0.1,)),
    ],
)
def test_numbers_beyond_their_range_are_refused(method, name, inside, beyond):
    config = config_of(method, {})
    for value in inside:
        assert flatten(replace(config, {name: value}))[name] == value
    for value in (*beyond, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"{name} is {value:g}(\.0)?; it must be "):
            replace(config, {name: value})


# --- files


def test_files_tell_their_format_and_another_is_refused(tmp_path):
    assert to_dict(Config())["format"] == FORMAT == "epvf-config/2"
    path = tmp_path / "config.yaml"
    path.write_text("format: epvf-config/9\nseed: 3\n")
    with pytest.raises(UserError, match="has format 'epvf-config/2', not 'epvf-config/9'"):
        load(path)
    path.write_text("format: epvf-config/2\nseed: 3\n")
    assert load(path) == replace(Config(), {"seed": 3})


SINCE_THEN = {
    "psvf.final_discount": None,
    "policy.last_layer_scale": 1.0,
    "policy_update.max_change": None,
    "representation.num_landmarks": 512,
    "representation.length_scale": 1.0,
}
"""Fields that 0.1.0 did not have, and the values with which they change nothing."""


@pytest.mark.parametrize("file", sorted(EARLIER.rglob("config.json")), ids=lambda p: p.parent.name)
def test_whole_configurations_of_0_1_0_are_read(file, tmp_path):
    told = json.loads(file.read_text())
    assert {"psvf", "evolution", "ppo", "sac"} < told.keys() and "format" not in told
    config = load(file)
    assert config.method.name == told["method"]
    for name, leaf in readable(config).items():
        group, _, last = name.rpartition(".")
        if name in SINCE_THEN:
            wanted = SINCE_THEN[name]
        else:
            wanted = told[group][last] if group else told[last]
        assert leaf.value == (tuple(wanted) if isinstance(wanted, list) else wanted)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert load(path) == config


def test_what_another_method_would_have_read_of_a_file_of_0_1_0_is_left_out(tmp_path):
    told = json.loads((EARLIER / "openes" / "config.json").read_text())
    told["buffer"]["size"], told["psvf"]["noise"] = 77, 0.7
    path = tmp_path / "config.json"
    path.write_text(json.dumps(told))
    assert load(path) == load(EARLIER / "openes" / "config.json")
