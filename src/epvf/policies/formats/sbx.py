"""Policies of SBX, which Stable-Baselines3's file holds as a pickle of half of JAX.

Nothing of it is run: see `pickles`. What it names has to be of the packages that SBX consists of.
"""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.policies.formats.arrays import array_of
from epvf.policies.formats.networks import Network
from epvf.policies.formats.pickles import Made, read_pickle
from epvf.policies.mlp import Layer

_PACKAGES = frozenset({
    "abc", "absl", "cloudpickle", "collections", "dataclasses", "enum", "flax", "functools",
    "gymnasium", "inspect", "jax", "jaxlib", "jaxtyping", "ml_dtypes", "numpy", "optax", "sbx",
    "stable_baselines3", "tensorflow_probability", "torch", "types", "typing", "weakref",
    "_functools", "_operator", "operator", "_thread", "_weakrefset", "copyreg", "logging",
    "contextlib", "itertools", "threading", "warnings", "textwrap", "uuid", "math", "numbers",
})  # fmt: skip
_BUILTINS = frozenset({
    "getattr", "str", "int", "float", "bool", "tuple", "list", "dict", "set", "frozenset", "object",
    "type", "property", "slice", "range", "Ellipsis", "NotImplemented", "complex", "bytes", "super",
    "classmethod", "staticmethod", "isinstance", "callable", "Exception", "ValueError", "TypeError",
    "KeyError", "AttributeError", "RuntimeError", "AssertionError", "NotImplementedError",
})  # fmt: skip
_TWO_HEADED = ("sac", "tqc", "crossq")
"""Whose last layer is not the action's mean but the logarithm of its deviation."""


def network(path: Path, data: dict[str, Any], low: Any, high: Any) -> Network:
    """The policy network in `data` of a model of SBX.

    Raises:
        UserError: if there is none, or it is no MLP.
    """
    policy = data.get("policy")
    text = policy.get(":serialized:") if isinstance(policy, dict) else None
    if not isinstance(policy, dict) or not isinstance(text, str):
        raise UserError(f"{path} has neither policy.pth, as of SB3, nor a policy, as of SBX")
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise UserError(f"{path} is not whole: its policy is no text of base 64") from None
    made = read_pickle(io.BytesIO(content), _allowed, f"{path}")
    state = made.state if isinstance(made, Made) else None
    state = state[0] or state[1] if isinstance(state, tuple) else state
    actor = state.get("actor_state") if isinstance(state, dict) else None
    parameters = _find(actor, "params")
    tensors = parameters.get("params") if isinstance(parameters, dict) else None
    if not isinstance(tensors, dict):
        raise UserError(f"{path} has no policy network that is known")
    kind = str(policy.get(":type:", "")).split(".")
    algorithm = kind[1] if len(kind) > 2 else "policy"
    names = _order(path, tensors)
    if algorithm in _TWO_HEADED:
        names.pop()
    layers = [_layer(path, tensors[name]) for name in names]
    squashed = algorithm in (*_TWO_HEADED, "td3", "ddpg")
    output = "argmax" if low is None else "tanh" if squashed else "clip"
    return Network(
        f"sbx {algorithm}", layers, _activation(policy, state), output, low=low, high=high
    )


def _allowed(name: str) -> bool:
    module, _, attribute = name.partition(".")
    return attribute in _BUILTINS if module == "builtins" else module in _PACKAGES


def _find(made: Any, field: str) -> Any:
    """A field of a dataclass of flax, wherever the pickle has its fields."""
    if not isinstance(made, Made):
        return None
    for place in (made.state, *(made.args if isinstance(made.args, tuple) else ())):
        for fields in place if isinstance(place, tuple) else (place,):
            if isinstance(fields, dict) and field in fields:
                return fields[field]
    return None


def _order(path: Path, tensors: dict[str, Any]) -> list[str]:
    """Names of the layers in order."""
    names = [name for name in tensors if re.fullmatch(r"Dense_\d+", str(name))]
    if not names or any(isinstance(v, dict) for k, v in tensors.items() if k not in names):
        raise UserError(f"{path} is no MLP: it has {', '.join(map(str, tensors))[:80]}")
    return sorted(names, key=lambda name: int(name[6:]))


def _layer(path: Path, dense: Any) -> Layer:
    kernel, bias = (array_of(dense.get(name), f"{path}") for name in ("kernel", "bias"))
    return Layer(np.asarray(kernel, np.float64), np.asarray(bias, np.float64))


def _activation(policy: dict[str, Any], state: Any) -> str | None:
    """By the name that the function gives itself, as text or in the pickle."""
    found = re.search(r"function (\w+) at", str(policy.get("activation_fn", "")))
    if found:
        return found.group(1)
    made = state.get("activation_fn") if isinstance(state, dict) else None
    named = made.state if isinstance(made, Made) else None
    return str(named["__name__"]) if isinstance(named, dict) and "__name__" in named else None
