"""A policy as an ONNX graph: `observation` `[batch, N]` to `outputs` and `action`, float32.

`action` is `[batch, M]`, or with `argmax` the index `[batch]`, int64. What the file says of itself
is its model's `metadata_props`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from epvf import __version__
from epvf.errors import UserError
from epvf.files import write_atomically
from epvf.policies.formats.contents import Contents

OPSET = 17
IR_VERSION = 8
"""Old enough for the runtimes on robots, new enough for all that is used."""

_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "elu": "Elu"}


def write(path: Path, contents: Contents) -> list[Path]:
    """Writes the model; gives its path.

    Raises:
        UserError: if the package `onnx` is missing.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("format 'onnx' needs the package onnx: pip install 'epvf[onnx]'") from None
    graph = _graph(contents)
    model = onnx.helper.make_model(
        graph,
        producer_name="epvf",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(model, contents.metadata)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
    return [path]


def _graph(contents: Contents) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    policy = contents.policy
    sizes, nodes, tensors, before = policy.layer_sizes, [], [], "observation"
    for i, layer in enumerate(contents.layers):
        last = i == len(contents.layers) - 1
        names = f"layer{i}.kernel", f"layer{i}.bias"
        tensors += [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in zip(names, layer, strict=True)
        ]
        after = "outputs" if last else f"layer{i}"
        nodes.append(helper.make_node("Gemm", [before, *names], [after], name=f"gemm{i}"))
        if not last:
            kind = _ACTIVATIONS[policy.activation]
            nodes.append(helper.make_node(kind, [after], [f"hidden{i}"], name=f"activate{i}"))
            before = f"hidden{i}"
    if policy.output == "argmax":
        nodes.append(helper.make_node("ArgMax", ["outputs"], ["action"], axis=1, keepdims=0))
        action = helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"])
    else:
        inputs = ["outputs"]
        if policy.output == "clip":
            inputs += ["low", "high"]
            tensors += [
                numpy_helper.from_array(np.float32(end), name)
                for name, end in (("low", -1.0), ("high", 1.0))
            ]
        kind = {"clip": "Clip", "tanh": "Tanh"}[policy.output]
        nodes.append(helper.make_node(kind, inputs, ["action"], name="act"))
        action = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", sizes[-1]])
    of_floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("observation", sizes[0]), ("outputs", sizes[-1]))
    ]
    return helper.make_graph(nodes, "policy", of_floats[:1], [action, of_floats[1]], tensors)
