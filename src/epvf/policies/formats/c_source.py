"""A policy as one C file and a header that need nothing but `math.h`.

    cc -O2 -c policy.c        in other files: #include "policy.h"; link with -lm

Weights are hexadecimal constants, so that they have the same bits. No memory is allocated, nothing
is global but constants: calls may run side by side.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.files import write_atomically
from epvf.policies.formats.contents import Contents

_ACTIVATE = {
    "tanh": "tanhf(x)",
    "relu": "x > 0.0f ? x : 0.0f",
    "elu": "x > 0.0f ? x : expm1f(x)",
}
_ACT = {
    "clip": "x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x",
    "tanh": "tanhf(x)",
}
_COLUMNS = 6


def write(path: Path, contents: Contents) -> list[Path]:
    """Writes the C file and, beside it, its header; gives both paths.

    Raises:
        UserError: if the file's name makes no name in C.
    """
    name = path.stem
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise UserError(f"{path.name} makes no name in C; use letters, digits and underscores")
    header = path.with_suffix(".h")
    write_atomically(header, _header(name, contents).encode())
    write_atomically(path, _source(name, contents).encode())
    return [path, header]


def _header(name: str, contents: Contents) -> str:
    sizes = contents.policy.layer_sizes
    guard = f"{name.upper()}_H"
    told = "\n".join(f" *   {key}: {_plain(value)}" for key, value in contents.metadata.items())
    return f"""/* A policy network, written by epvf.
 *
{told}
 */
#ifndef {guard}
#define {guard}

#define {name.upper()}_OBSERVATIONS {sizes[0]}
#define {name.upper()}_ACTIONS {sizes[-1]}

#ifdef __cplusplus
extern "C" {{
#endif

/* The last layer's outputs, before they become an action. */
void {name}_outputs(const float observation[{sizes[0]}], float outputs[{sizes[-1]}]);

{_documented(name, contents)}

#ifdef __cplusplus
}}
#endif
#endif
"""


def _documented(name: str, contents: Contents) -> str:
    what = f"/* The action: {contents.metadata['action_is']}. */\n"
    return what + _signature(name, contents) + ";"


def _signature(name: str, contents: Contents) -> str:
    sizes = contents.policy.layer_sizes
    observation = f"const float observation[{sizes[0]}]"
    if contents.policy.output == "argmax":
        return f"int {name}_act({observation})"
    return f"void {name}_act({observation}, float action[{sizes[-1]}])"


def _source(name: str, contents: Contents) -> str:
    layers = contents.layers
    parts = [f'#include "{name}.h"\n\n#include <math.h>\n']
    for i, layer in enumerate(layers):
        # [out][in]: a neuron's weights lie side by side
        parts.append(_constants(f"kernel{i}", np.asarray(layer.kernel).T))
        parts.append(_constants(f"bias{i}", np.asarray(layer.bias)))
    if len(layers) > 1:
        activate = _ACTIVATE[contents.policy.activation]
        parts.append(f"static float activate(float x)\n{{\n    return {activate};\n}}\n")
    parts.append(_AFFINE)
    parts.append(_outputs(name, contents))
    parts.append(_act(name, contents))
    return "\n".join(parts)


_AFFINE = """static void affine(const float *kernel, const float *bias, const float *x, float *y,
                   int inputs, int outputs)
{
    for (int o = 0; o < outputs; o++) {
        float sum = 0.0f;
        for (int i = 0; i < inputs; i++)
            sum += kernel[o * inputs + i] * x[i];
        y[o] = sum + bias[o];
    }
}
"""


def _outputs(name: str, contents: Contents) -> str:
    sizes = contents.policy.layer_sizes
    lines = []
    before = "observation"
    for i, (fan_in, fan_out) in enumerate(contents.policy.shapes):
        last = i == len(contents.layers) - 1
        after = "outputs" if last else f"hidden{i}"
        if not last:
            lines.append(f"    float {after}[{fan_out}];")
        lines.append(f"    affine(kernel{i}, bias{i}, {before}, {after}, {fan_in}, {fan_out});")
        if not last:
            lines.append(f"    for (int i = 0; i < {fan_out}; i++)")
            lines.append(f"        {after}[i] = activate({after}[i]);")
        before = after
    arguments = f"const float observation[{sizes[0]}], float outputs[{sizes[-1]}]"
    return "\n".join([f"void {name}_outputs({arguments})", "{", *lines, "}", ""])


def _act(name: str, contents: Contents) -> str:
    count = contents.policy.layer_sizes[-1]
    signature = _signature(name, contents)
    if contents.policy.output == "argmax":
        return f"""{signature}
{{
    float outputs[{count}];
    int best = 0;
    {name}_outputs(observation, outputs);
    for (int i = 1; i < {count}; i++)
        if (outputs[i] > outputs[best])
            best = i;
    return best;
}}
"""
    return f"""{signature}
{{
    {name}_outputs(observation, action);
    for (int i = 0; i < {count}; i++) {{
        const float x = action[i];
        action[i] = {_ACT[contents.policy.output]};
    }}
}}
"""


def _constants(name: str, array: np.ndarray) -> str:
    numbers = [f"{float(x).hex()}f" for x in array.ravel()]
    if not np.isfinite(array).all():
        raise UserError("the policy has weights that are not finite, which C has no constants for")
    rows = ["    " + ", ".join(numbers[i : i + _COLUMNS]) for i in range(0, len(numbers), _COLUMNS)]
    return f"static const float {name}[{len(numbers)}] = {{\n" + ",\n".join(rows) + "};\n"


def _plain(value: Any) -> str:
    """Text that cannot end a comment, in a line."""
    return " ".join(str(value).split()).replace("*/", "* /").replace("/*", "/ *")
