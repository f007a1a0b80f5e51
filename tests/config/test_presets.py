"""`tuned` on tasks that nobody tuned: fitted to their numbers, and said."""

from dataclasses import replace

import pytest

from epvf.config.presets import chosen, preset, untuned
from epvf.tasks import make

SPEC = make("cartpole").spec


def ahead(length: int, seconds: float | None) -> int:
    return untuned.steps_ahead(replace(SPEC, episode_length=length, step_seconds=seconds))


def test_tuned_tasks_keep_what_was_tuned() -> None:
    for name in ("ant", "hopper", "halfcheetah", "walker2d", "cartpole"):
        assert chosen(name, "tuned", "psvf") is None
        psvf = preset(name, "tuned", "psvf").method.psvf
        assert (psvf.discount, psvf.final_discount) == (0.99, 0.995)


@pytest.mark.parametrize(
    ("length", "seconds", "steps"),
    [
        (1000, 0.02, 100),  # as on the walkers
        (1000, None, 100),
        (50, 0.02, 50),  # no further than an episode
        (1, 0.02, 2),
        (10_000, 0.002, 500),  # a second
        (10_000, 1e-5, 1000),
        (300, 0.002, 300),
    ],
)
def test_methods_look_ahead_as_far_as_matters(length, seconds, steps) -> None:
    assert ahead(length, seconds) == steps


@pytest.mark.parametrize(
    ("length", "seconds", "final"),
    [
        (1000, 0.02, []),  # as on the walkers
        (500, 0.2, []),
        (300, 0.05, [0.993333]),  # half an episode
        (200, 0.05, [None]),  # where that is no further than it looks anyway
        (10_000, 0.002, [0.999]),
    ],
)
def test_how_far_v_looks_ahead_in_the_end(length, seconds, final) -> None:
    spec = replace(SPEC, episode_length=length, step_seconds=seconds)
    found = [c.value for c in untuned.choices(spec, "psvf") if c.field == "psvf.final_discount"]
    assert found == final


def test_where_policies_cannot_be_asked_what_they_see_v_reads_weights() -> None:
    walks = replace(SPEC, discrete=False)
    assert untuned.choices(walks, "epvf") == []
    assert untuned.choices(SPEC, "epvf", waits=False) == []  # CartPole's preset reads weights
    assert untuned.choices(walks, "epvf", waits=False) == [("representation.name", "raw")]
    line = untuned.told(walks, "epvf", "the walkers", waits=False)
    assert line.endswith("its policies cannot be asked what they see: representation.name raw")


def test_what_was_chosen_is_in_the_configuration_and_is_said() -> None:
    config = preset("reacher", "tuned")
    assert config.method.name == "psvf"
    assert (config.method.psvf.discount, config.method.psvf.gae_lambda) == (0.98, 0.8)
    line = chosen("reacher", "tuned", "psvf")
    assert line is not None and len(line) <= 200
    assert config.method.psvf.final_discount is None and "psvf.final_discount none" in line
    assert "'reacher'" in line and "50 steps of 0.02 s" in line and "psvf.discount 0.98" in line
    assert preset("reacher", "tuned", "ppo").method.ppo.discount == 0.98
    assert preset("reacher", "debug").task.episode_length == 50
    assert chosen("reacher", "debug", "epvf") is None
    assert chosen("acrobot", "tuned", "epvf") == (
        "nobody tuned task 'acrobot': it has the settings of CartPole"
    )
