"""Videos of policies: what is in the pictures, and what is refused."""

import sys
from typing import Any

import jax
import numpy as np
import pytest

import epvf
from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import perturb
from epvf.tasks import make
from epvf.tasks.ant import OBJECTIVES
from epvf.view.cast import Actor, cast, swarm
from epvf.view.film import Film, Settings
from epvf.view.scene import GHOST, Camera
from epvf.view.tiles import side_by_side

SMALL: Any = {"width": 128, "height": 96}


def _orange(picture):
    """Columns of the trail's pixels, without those of captions."""
    red, green, blue = picture[24:-24].astype(int).transpose(2, 0, 1)
    return np.nonzero((red > 180) & (blue < 40) & (green > 60) & (green < 230))[1]


@pytest.mark.usefixtures("renderer")
def test_a_body_moves_and_leaves_a_trail_behind(hopper):
    with Film(cast(hopper), Settings(seconds=0.6, **SMALL)) as film:
        pictures = list(film.pictures())
        (played,) = film.played
    assert film.fps == 25.0 and len(pictures) == 15 and pictures[0].shape == (96, 128, 3)
    for before, after in zip(pictures[:-1], pictures[1:], strict=True):
        assert (before != after).any()
    assert played.length == 70 and played.episode_return > 0.0  # 14 / 25 s, 0.008 s a step
    assert not played.over


@pytest.mark.usefixtures("renderer")
def test_the_trail_is_left_of_who_walks_to_the_right(hopper):
    with Film(cast(hopper), Settings(width=320, height=240, camera=Camera(distance=3.0))) as film:
        first, *_, last = film.pictures()
        (played,) = film.played
    assert played.over and len(_orange(first)) == 0
    columns = _orange(last)
    assert len(columns) > 20 and columns.min() < 150 and columns.max() < 200


@pytest.mark.usefixtures("renderer")
def test_the_episode_is_the_one_that_the_engine_plays(hopper):
    """The return of the pictures' episode, against MuJoCo's C engine as in training."""
    policy = Policy((34, 8))
    theta = np.asarray(policy.init(jax.random.key(3)))
    ant = SavedPolicy(policy, theta, "ant", {"episode_length": "60"})
    with Film(cast(ant), Settings(fps=5, **SMALL)) as film:
        list(film.pictures())
        (played,) = film.played
    evaluate = make("ant", backend="native", episode_length=60).evaluator(policy)
    found = evaluate(jax.random.key(0), theta[None])
    assert played.length == found.lengths[0]
    np.testing.assert_allclose(played.episode_return, found.returns[0], rtol=1e-2)


@pytest.mark.usefixtures("renderer")
def test_how_often_it_is_drawn_changes_nothing(ant):
    returns = []
    for fps in (2.0, 20.0):
        with Film(cast(ant), Settings(seconds=1.0, fps=fps, **SMALL)) as film:
            list(film.pictures())
            tile = film._tiles[0]
            tile.picture(1.0)
            returns.append(film.played[0].episode_return)
    assert returns[0] == returns[1] != 0.0


@pytest.mark.usefixtures("renderer")
def test_side_by_side_is_as_wide_as_both(ant, hopper):
    alone = [epvf.render(one, seconds=0.1, fps=25, **SMALL) for one in (ant, hopper)]
    both = epvf.render({"ant": ant, "hopper": hopper}, seconds=0.1, fps=25, **SMALL)
    assert both.shape == (2, 96, 256, 3)
    np.testing.assert_array_equal(both[:, :, :128], alone[0])
    np.testing.assert_array_equal(both[:, :, 130:], alone[1][:, :, 2:])


def test_many_stand_in_rows():
    pictures = [np.full((4, 6, 3), n, np.uint8) for n in range(1, 6)]
    whole = side_by_side(pictures)
    assert whole.shape == (8, 18, 3)
    assert [whole[y, x, 0] for y in (1, 5) for x in (4, 10, 16)] == [1, 2, 3, 4, 5, 0]


@pytest.mark.usefixtures("renderer")
def test_a_swarm_is_drawn_around_the_policy(ant):
    with Film(cast(ant), Settings(seconds=0.4, perturbed=3, **SMALL)) as film:
        pictures = list(film.pictures())
        (played,) = film.played
    alone = epvf.render(ant, seconds=0.4, **SMALL)
    assert len(played.perturbed_returns) == 3 and "scaled_uniform 0.3" in played.noise
    # zero weights have no noise: all ghosts stand where the policy does
    assert set(played.perturbed_returns) == {played.episode_return}
    assert GHOST[2] == max(GHOST)
    blue = [(p[..., 2].astype(int) - p[..., 0] > 40).sum() for p in (pictures[-1], alone[-1])]
    assert blue[0] > blue[1] + 100


@pytest.mark.slow
def test_the_noise_is_the_runs(tmp_path):
    config = epvf.preset("cartpole", "debug").replace({"iterations": 1})
    run = epvf.train(config, out=tmp_path / "run").run
    assert run is not None
    (actor,) = cast(run)
    noise, theta = config.method.perturbation, actor.saved.theta
    drawn = swarm(actor, 5, seed=4)
    assert drawn.thetas.shape == (5, len(theta)) and "checkpoint" in drawn.noise
    num = 6 if noise.antithetic else 5
    expected = perturb(noise, jax.random.key(4), theta[None], num + num % 2)[:5]
    np.testing.assert_allclose(drawn.thetas, expected, rtol=1e-6)
    # the policies' files are known to be the run's
    (by_file,) = cast(run / "policies" / "best.safetensors")
    assert by_file.run is not None and by_file.run.samefile(run)


def test_without_a_run_the_noise_is_the_default(hopper):
    theta = np.ones_like(hopper.theta)
    drawn = swarm(Actor("x", hopper._replace(theta=theta)), 3, seed=1)
    assert np.abs(drawn.thetas - 1.0).max() <= PerturbationConfig().scale
    assert drawn.thetas.std() > 0.1


def test_cartpole_is_drawn_by_gymnasium(cartpole):
    pictures = epvf.render(cartpole, seconds=1.0, **SMALL)
    assert pictures.shape == (25, 96, 128, 3)
    assert all((a != b).any() for a, b in zip(pictures[:-1], pictures[1:], strict=True))
    with Film(cast(cartpole), Settings(seconds=1.0, **SMALL)) as film:
        list(film.pictures())
    (played,) = film.played
    assert played.episode_return == played.length == 48


def test_names_tell_apart(tmp_path, cartpole, saved):
    one, two = tmp_path / "a", tmp_path / "b"
    for folder in (one, two):
        folder.mkdir()
        saved(cartpole).rename(folder / "policy.safetensors")
    names = [a.name for a in cast([one / "policy.safetensors", two / "policy.safetensors"])]
    assert names == ["a/policy", "b/policy"]
    assert [a.name for a in cast([cartpole, cartpole])] == ["1 cartpole", "2 cartpole"]
    assert [a.name for a in cast({"x": cartpole, "y": cartpole})] == ["x", "y"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"fps": 0.5}, "fps is 0.5"),
        ({"width": 641}, "width is 641, but must be even"),
        ({"height": 8}, "height is 8"),
        ({"perturbed": -1}, "perturbed is -1"),
        ({"perturbed": 257}, "perturbed is 257"),
        ({"seed": -1}, "seed is -1"),
        ({"command": (1.0,)}, "task 'cartpole' takes no command"),
        ({"perturbed": 2}, "perturbed policies of 'cartpole' cannot be drawn in one scene"),
    ],
)
def test_what_cannot_be_is_refused(settings, message, cartpole):
    with pytest.raises(UserError, match=message):
        epvf.render(cartpole, **settings)


def test_a_body_is_asked_for_a_command(renderer, ant):
    policy = Policy((38, 8), output="clip")
    theta = np.random.default_rng(0).normal(0.0, 0.3, policy.num_parameters)
    saved = ant._replace(policy=policy, theta=theta.astype(np.float32), task="ant+forward+left")
    with pytest.raises(UserError, match="takes 4 numbers, but the command has 1"):
        epvf.render(saved, seconds=0.1, command=(1.0,))
    totals = []
    for command in (OBJECTIVES["forward"], OBJECTIVES["left"]):
        with Film(cast(saved), Settings(seconds=0.5, width=64, height=64, command=command)) as film:
            list(film.pictures())
            totals.append(film.played[0].episode_return)
    assert totals[0] != totals[1]


def test_policies_that_cannot_be_shown_are_refused(cartpole, hopper, tmp_path):
    with pytest.raises(UserError, match="unknown task 'moon'"):
        epvf.render(cartpole._replace(task="moon"))
    with pytest.raises(UserError, match="does not fit task 'cartpole'"):
        epvf.render(hopper._replace(task="cartpole"))
    with pytest.raises(UserError, match="does not fit task 'ant'"):
        epvf.render(hopper._replace(task="ant"))
    with pytest.raises(UserError, match="0 policies were given"):
        epvf.render([])
    with pytest.raises(UserError, match="17 policies were given"):
        epvf.render([cartpole] * 17)
    with pytest.raises(UserError, match="is no run"):
        epvf.render(tmp_path)


def test_a_task_that_nobody_can_draw_is_refused(cartpole, monkeypatch):
    from epvf.tasks.registry import TASKS

    monkeypatch.setattr(TASKS, "_registered", dict(TASKS._registered))
    epvf.register_task("secret", lambda: make("cartpole"))
    with pytest.raises(UserError, match="task 'secret' cannot be drawn"):
        epvf.render(cartpole._replace(task="secret"))


def test_without_pygame_one_line_says_how_to_get_it(cartpole, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UserError, match=r"cannot draw .*CartPole-v1: .*pip install pygame"):
        epvf.render(cartpole)


@pytest.mark.usefixtures("renderer")
def test_an_episode_that_fails_says_nan(ant):
    theta = np.full_like(ant.theta, np.nan)
    with Film(cast(ant._replace(theta=theta)), Settings(**SMALL)) as film:
        assert len(list(film.pictures())) < 25
        (played,) = film.played
    assert played.over and np.isnan(played.episode_return) and played.length == 1
