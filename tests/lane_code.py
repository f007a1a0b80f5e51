"""Functions of JAX compiled by the lanes engine alone, without an environment around them."""

import ctypes
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from epvf.tasks.engines.lanes import driver, llvm, objects, program
from epvf.tasks.engines.lanes.graph import BOOL, DTYPES, Graph
from epvf.tasks.engines.lanes.objects import Code, Target
from epvf.tasks.engines.lanes.scalarise import Scalariser, kind_of


def lower(function: Callable[..., Any], *examples: Any, where: Target | None = None) -> "Lowered":
    """The function of arrays like these, with other ones in every lane."""
    return Lowered(function, examples, objects.target() if where is None else where)


class Lowered:
    """A compiled function; call it with arrays that have the lanes as first axis."""

    def __init__(self, function: Callable[..., Any], examples: Any, where: Target) -> None:
        traced: Any = jax.make_jaxpr(function)(*examples)
        graph = Graph()
        given = program.inputs(graph, traced.in_avals)
        made = Scalariser(graph).closed(traced, given)
        text = llvm.function(
            graph, where.lanes, "f", {"x": program.slots(given)}, {"y": program.slots(made)}
        )
        self.text = "\n".join([llvm.header(where.lanes), text])
        self._code = Code(objects.compile_text(self.text, where), where)
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2)(
            self._code.address("f")
        )
        self._outputs = traced.out_avals
        self.width = where.lanes.width

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        rows = [_bits(np.asarray(array)) for array in arrays]
        x = driver._aligned((sum(r.shape[1] for r in rows), self.width), np.int32)
        x[:] = np.concatenate(rows, axis=1).T
        size = sum(int(np.prod(aval.shape, dtype=int)) for aval in self._outputs)
        y = driver._aligned((size, self.width), np.int32)
        self._call(x.ctypes.data, y.ctypes.data)
        out, start = [], 0
        for aval in self._outputs:
            number = int(np.prod(aval.shape, dtype=int))
            bits = np.ascontiguousarray(y[start : start + number].T)
            kind = kind_of(aval.dtype)
            own = bits.astype(bool) if kind == BOOL else bits.view(DTYPES[kind])
            out.append(own.reshape(self.width, *aval.shape))
            start += number
        return out


def _bits(array: np.ndarray) -> np.ndarray:
    own = array.astype(DTYPES[kind_of(array.dtype)])
    bits = own.astype(np.int32) if own.dtype == bool else np.ascontiguousarray(own).view(np.int32)
    return bits.reshape(len(bits), -1)


def both(function: Callable[..., Any], *arrays: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What lanes and JAX make of arrays with a leading axis as long as there are lanes."""
    found = lower(function, *(array[0] for array in arrays))(*arrays)
    expected = jax.tree.leaves(jax.jit(jax.vmap(function))(*arrays))
    return found, [np.asarray(array) for array in expected]
