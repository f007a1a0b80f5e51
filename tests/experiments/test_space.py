"""Search spaces: what words and files name, and what is refused."""

import pytest

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.experiments.space import Choices, Span, Value, applied, grid, parsed

BASE = preset("cartpole", "debug", "epvf")


def test_words_and_a_file_name_ranges_and_choices(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("policy.hidden_sizes: [[], [8], [16, 16]]\nnum_envs: 16:64\n")
    words = [
        "perturbation.scale=0.1:1",
        "policy-update.learning-rate=log:1e-3:1:4",
        "perturbation.antithetic=true|false",
    ]
    assert parsed(words, file, BASE) == [
        Span("perturbation.scale", 0.1, 1.0, False, False, None),
        Span("policy_update.learning_rate", 1e-3, 1.0, True, False, 4),
        Choices("perturbation.antithetic", ("true", "false"), (True, False)),
        Choices("policy.hidden_sizes", ("none", "8", "16 16"), ((), (8,), (16, 16))),
        Span("num_envs", 16.0, 64.0, False, True, None),
    ]


def test_a_trial_has_the_values_of_its_axes_and_nothing_else_changed():
    words = ["num_envs=16:64", "policy.hidden-sizes=none|16 16", "policy_update.weight_clip=none|1"]
    axes = parsed(words, None, BASE)
    params: dict[str, Value] = {
        "num_envs": 32,
        "policy.hidden_sizes": "16 16",
        "policy_update.weight_clip": "1",
    }
    wanted = {
        "num_envs": 32,
        "policy.hidden_sizes": [16, 16],
        "policy_update.weight_clip": 1.0,
    }
    assert applied(BASE, axes, params) == BASE.replace(wanted)


def test_a_grid_has_every_combination_once_and_ends_where_the_ranges_end():
    words = ["perturbation.scale=log:0.01:1:3", "num_envs=2:4:3", "perturbation.antithetic=true"]
    points = list(grid(parsed(words, None, BASE)))
    assert len(points) == 9 == len({tuple(point.values()) for point in points})
    scales = sorted({point["perturbation.scale"] for point in points})
    assert scales == pytest.approx([0.01, 0.1, 1.0]) and scales[-1] == 1.0
    assert {point["num_envs"] for point in points} == {2, 3, 4}


BAD = [
    ([], "what is to be searched?"),
    (["perturbation.scale"], "give a field and its values"),
    (["perturbation.scal=0:1"], "did you mean perturbation.scale?"),
    (["psvf.noise=0.1:1"], "method 'epvf' reads no field psvf.noise"),
    (["perturbation.scale=1:0.1"], "LOW below HIGH"),
    (["perturbation.scale=0.1:x"], "LOW below HIGH"),
    (["perturbation.scale=0.1:inf"], "LOW below HIGH"),
    (["perturbation.scale=log:0:1"], "LOW below HIGH"),
    (["perturbation.scale=0.1:1:1"], "how many values"),
    (["perturbation.scale=-1:1"], "perturbation.scale is -1.0"),
    (["perturbation.scale=0.1|x"], "perturbation.scale must be a number"),
    (["perturbation.scale=0.1||2"], "an empty or a repeated value"),
    (["num_envs=0.5:4"], "takes whole numbers"),
    (["policy.activation=1:2"], "takes no numbers"),
    (["policy.activation=tanh|thanh"], "thanh"),
    (["seed=1:4"], "seed cannot be searched"),
    (["num_envs=1:4", "num-envs=1:4"], "num_envs is searched twice"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_no_trial_could_use_is_refused_in_a_line(words, message):
    with pytest.raises(UserError) as refused:
        parsed(words, None, BASE)
    assert message in str(refused.value) and len(str(refused.value)) <= 200


def test_a_grid_without_a_number_of_values_is_refused():
    with pytest.raises(UserError, match=r"perturbation.scale=0.1:1:4, or perturbation.scale=A"):
        list(grid(parsed(["perturbation.scale=0.1:1"], None, BASE)))
