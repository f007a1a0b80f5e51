"""Policies in files of `torch.save`: rsl_rl's checkpoints and CleanRL's models.

Sources: rsl_rl 1 to 5 (`OnPolicyRunner.save`); CleanRL's scripts (ppo, ppo_continuous_action,
sac_continuous_action, td3_continuous_action, ddpg_continuous_action, dqn).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.files import one_line
from epvf.policies.formats.networks import (
    NOTHING_TOLD,
    Network,
    Told,
    read_layers,
    saved_policy,
    sequence,
)
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.formats.torch_files import read_torch

NORMALISER_EPSILON = 1e-2
"""Of rsl_rl's `EmpiricalNormalization`, which its files do not tell."""

_UNBOUNDED = "actions were not clipped to ±1 there"


def read_policy(path: Path, told: Told = NOTHING_TOLD) -> SavedPolicy:
    """Reads the deterministic policy of a checkpoint.

    Raises:
        UserError: if it is no such file, or its policy is no MLP that is known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    found = read_torch(data, f"{path}")
    if isinstance(found, list) and found:
        found = found[0]  # CleanRL's SAC, TD3 and DDPG save the actor, then the critics
    if not isinstance(found, dict):
        raise UserError(f"{path} has no tensors by name")
    if "actor_state_dict" in found or "model_state_dict" in found:
        return saved_policy(path, _rsl_rl(path, found), told)
    return saved_policy(path, _cleanrl(path, found), told)


def _rsl_rl(path: Path, found: Mapping[str, Any]) -> Network:
    newest = "actor_state_dict" in found
    tensors = found["actor_state_dict" if newest else "model_state_dict"]
    if not isinstance(tensors, dict):
        raise UserError(f"{path} has no tensors by name")
    if any("memory" in name or "rnn" in name for name in tensors):
        raise UserError(f"{path} has a recurrent policy; only MLPs fit")
    names = sequence(tensors, "mlp" if newest else "actor")
    mean, deviation = _statistics(found, tensors)
    notes = (_UNBOUNDED,)
    layers = read_layers(path, tensors, names)
    # its configuration has the activation, its checkpoint has not: elu, unless one is told
    return Network("rsl_rl", layers, None, "clip", mean, deviation, notes=notes)


def _statistics(found: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and deviation of observations, wherever a version of rsl_rl keeps them; None: none."""
    apart = found.get("obs_norm_state_dict")
    places = [(tensors, "obs_normalizer."), (tensors, "actor_obs_normalizer.")]
    if isinstance(apart, dict):
        places.append((apart, ""))
    for place, prefix in places:
        if f"{prefix}_mean" in place and f"{prefix}_std" in place:
            deviation = np.asarray(place[f"{prefix}_std"], np.float64) + NORMALISER_EPSILON
            return place[f"{prefix}_mean"], deviation
    return None, None


def _cleanrl(path: Path, tensors: Mapping[str, Any]) -> Network:
    if names := sequence(tensors, "actor_mean"):
        layers = read_layers(path, tensors, names)
        return Network("cleanrl ppo", layers, "tanh", "clip", notes=(_UNBOUNDED,))
    if names := sequence(tensors, "actor"):
        return Network("cleanrl ppo", read_layers(path, tensors, names), "tanh", "argmax")
    if names := sequence(tensors, "network"):
        return Network("cleanrl dqn", read_layers(path, tensors, names), "relu", "argmax")
    for last, origin in (("fc_mean", "sac"), ("fc_mu", "td3 or ddpg")):
        if f"{last}.weight" in tensors:
            return _squashed(path, tensors, last, f"cleanrl {origin}")
    listed = ", ".join(list(map(str, tensors))[:3])
    raise UserError(f"{path} has no policy that is known among its tensors ({listed:.80}, ...)")


def _squashed(path: Path, tensors: Mapping[str, Any], last: str, origin: str) -> Network:
    layers = read_layers(path, tensors, ("fc1", "fc2", last))
    low = high = None
    if "action_scale" in tensors and "action_bias" in tensors:
        scale, bias = (np.ravel(tensors[f"action_{name}"]) for name in ("scale", "bias"))
        low, high = bias - scale, bias + scale
    return Network(origin, layers, "relu", "tanh", low=low, high=high)
