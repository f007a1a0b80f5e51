"""What pictures are made of."""

import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy, save_policy
from epvf.policies.mlp import Policy
from epvf.view import opengl


@pytest.fixture(scope="session")
def renderer():
    """How MuJoCo's scenes are drawn; skips where nothing can."""
    try:
        return opengl.chosen()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hopper():
    """A policy that leans forwards until it falls: a constant push of its foot."""
    policy = Policy((11, 3))
    theta = np.zeros(policy.num_parameters, np.float32)
    theta[-3:] = (0.0, 0.0, 0.4)
    return SavedPolicy(policy, theta, "hopper", {})


@pytest.fixture(scope="session")
def ant():
    """A policy that stands still."""
    policy = Policy((34, 8))
    return SavedPolicy(policy, np.zeros(policy.num_parameters, np.float32), "ant", {})


@pytest.fixture(scope="session")
def cartpole():
    """A policy that keeps the pole up: it pushes to where that leans."""
    policy = Policy((4, 2), output="argmax")
    kernel = np.zeros((4, 2), np.float32)
    kernel[:, 1] = (0.05, 0.3, 1.0, 1.0)
    theta = np.concatenate([kernel.ravel(), np.zeros(2, np.float32)])
    return SavedPolicy(policy, theta, "cartpole", {})


@pytest.fixture
def saved(tmp_path):
    """`saved(policy)`: its file."""

    def save(one, name="policy"):
        path = tmp_path / f"{name}.safetensors"
        save_policy(path, one.policy, one.theta, one.task, 0.0, one.metadata)
        return path

    return save
