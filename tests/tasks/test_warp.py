"""The Ant on MJX-Warp: a smoke test, on Warp's CPU device where there is no GPU."""

import jax
import numpy as np
import pytest

pytest.importorskip("warp")
pytestmark = pytest.mark.slow


def test_agrees_with_native_before_the_first_contact() -> None:
    from epvf.tasks import make, warp

    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3, 8)).astype(np.float32)
    replay, reference = warp.make().replay(actions), make("ant", "native").replay(actions)
    np.testing.assert_allclose(replay.observation, reference.observation, atol=1e-3)
    np.testing.assert_array_equal(replay.terminated, reference.terminated)


def test_evaluates() -> None:
    from epvf.policy import Policy
    from epvf.tasks import warp

    policy = Policy((34, 8, 8))
    thetas = np.zeros((3, policy.num_parameters), np.float32)
    thetas[1, 0] = np.nan
    evaluation = warp.make(episode_length=5).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_array_equal(np.isnan(evaluation.returns), [False, True, False])
    np.testing.assert_array_equal(evaluation.lengths, [5, 0, 5])
