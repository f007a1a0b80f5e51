"""Weights, their axes and renumberings of them, for tests of functions of weights."""

import jax
import numpy as np

from epvf.policies.mlp import Policy
from epvf.value.permutations import policy_spec


def mlp_spec(*layer_sizes, permutable="hidden"):
    return policy_spec(Policy(layer_sizes), permutable)


def renumbering_of(spec, seed):
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(size) for group, size in spec.sizes.items()}


def parameters_of(module, seed):
    """Any parameters that fit, biases and all: the laws hold for all of them."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0))
    return jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape, np.float32), shapes)
