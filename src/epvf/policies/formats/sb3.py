"""Policies of Stable-Baselines3 and SBX: `.zip` files of `model.save`, MLPs only.

Source: the file format of stable-baselines3 1 and 2: `data`, JSON that shows objects as text (and,
beside it, as pickles, which are not read), and `policy.pth`, a file of torch's. SBX keeps its
networks in one of these pickles; see `sbx`.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.files import from_json, one_line
from epvf.policies.formats import sbx
from epvf.policies.formats.archives import check_archive
from epvf.policies.formats.arrays import NUMPY_NAMES, array_of
from epvf.policies.formats.networks import (
    NOTHING_TOLD,
    Network,
    Told,
    read_layers,
    saved_policy,
    sequence,
)
from epvf.policies.formats.pickles import Made, read_pickle
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.formats.torch_files import read_torch

_NORMALISER = NUMPY_NAMES | {
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize",
    "stable_baselines3.common.running_mean_std.RunningMeanStd",
    "gymnasium.spaces.box.Box",
    "gymnasium.spaces.discrete.Discrete",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._pcg64.PCG64",
    "numpy.random.bit_generator.SeedSequence",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
}
"""All that a saved `VecNormalize` names."""


def read_policy(path: Path, told: Told = NOTHING_TOLD) -> SavedPolicy:
    """Reads the deterministic policy of a saved model.

    Raises:
        UserError: if it is no such file, or its policy is no MLP.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
            names = archive.namelist()
            if "data" not in names:
                raise UserError(f"{path} is no model of Stable-Baselines3: it has no 'data'")
            data = from_json(archive.read("data"))
            weights = archive.read("policy.pth") if "policy.pth" in names else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is no model of Stable-Baselines3: its 'data' is no object")
    spaces = _actions(path, data)
    if weights is None:
        network = sbx.network(path, data, *spaces)
    else:
        network = _network(path, data, read_torch(weights, f"{path}"), *spaces)
    if told.normaliser is not None:
        network = _normalised(network, told.normaliser)
    return saved_policy(path, network, told)


def _network(path: Path, data: Any, tensors: Any, low: Any, high: Any) -> Network:
    if not isinstance(tensors, dict):
        raise UserError(f"{path} is no model of Stable-Baselines3: policy.pth has no tensors")
    kind = str(_told(data, "policy_class").get("__module__", "")).split(".")
    algorithm = kind[1] if len(kind) > 2 else "common"
    # actors beside a critic are common to these two
    name = f"stable-baselines3 {'ppo or a2c' if algorithm == 'common' else algorithm}"
    if any("features_extractor" in key for key in tensors):
        raise UserError(f"{path} reads its observations by a network of its own; only MLPs fit")
    discrete = low is None
    if "action_net.weight" in tensors:
        hidden = sequence(tensors, "mlp_extractor.policy_net")
        names, default, output = [*hidden, "action_net"], "tanh", "argmax" if discrete else "clip"
    elif "actor.mu.weight" in tensors:
        names, default, output = [*sequence(tensors, "actor.latent_pi"), "actor.mu"], "relu", "tanh"
    elif names := sequence(tensors, "actor.mu"):
        default, output = "relu", "tanh"
    elif names := sequence(tensors, "q_net.q_net"):
        default, output = "relu", "argmax"
    else:
        listed = ", ".join(list(tensors)[:3])
        raise UserError(f"{path} has no policy that is known among its tensors ({listed:.80}, ...)")
    activation = _activation(_told(data, "policy_kwargs"), default)
    layers = read_layers(path, tensors, names)
    return Network(name, layers, activation, output, low=low, high=high)


def _told(data: dict[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _activation(kwargs: dict[str, Any], default: str) -> str:
    text = str(kwargs.get("activation_fn", ""))
    if not text:
        return default
    found = re.search(r"(\w+)(?:'>| at 0x|>)", text)
    return found.group(1).lower() if found else text[:40]


def _actions(path: Path, data: dict[str, Any]) -> tuple[Any, Any]:
    """Bounds of continuous actions; None twice for discrete ones."""
    space = _told(data, "action_space")
    kind = str(space.get(":type:", ""))
    if "discrete.Discrete" in kind:
        return None, None
    if "box.Box" not in kind:
        raise UserError(
            f"{path} has actions of {kind[:60] or 'no kind'}; only Box and Discrete fit"
        )
    ends = [
        np.array([float(x) for x in re.findall(r"[-+]?(?:inf|[\d.]+(?:e[-+]?\d+)?)", text)])
        for text in (str(space.get("low")), str(space.get("high")))
    ]
    size = int(np.prod(space.get("_shape", [0])))
    if any(len(end) != size for end in ends) or not (ends[0] < ends[1]).all():
        raise UserError(f"{path} does not tell the bounds of its {size} actions")
    return ends[0], ends[1]


def _normalised(network: Network, file: Path) -> Network:
    """With the statistics of a saved `VecNormalize`.

    Raises:
        UserError: if it is none, or does not normalise observations.
    """
    try:
        with file.open("rb") as opened:
            made = read_pickle(opened, _NORMALISER.__contains__, f"{file}")
    except OSError as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from error
    state = made.state if isinstance(made, Made) else None
    statistics = state.get("obs_rms") if isinstance(state, dict) else None
    if not isinstance(statistics, Made) or not isinstance(statistics.state, dict):
        raise UserError(f"{file} has no statistics of observations, as VecNormalize saves them")
    assert isinstance(state, dict)
    if not state.get("norm_obs", True):
        return network
    mean, variance = (array_of(statistics.state[name], f"{file}") for name in ("mean", "var"))
    limit = state.get("clip_obs", 10.0)
    return Network(
        **{
            **vars(network),
            "mean": mean,
            "deviation": np.sqrt(variance + float(state.get("epsilon", 1e-8))),
            "notes": (*network.notes, f"normalised observations were clipped to ±{limit}"),
        }
    )
