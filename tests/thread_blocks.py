"""Kernels for an accelerator on threads of the host: a block after the other, all its threads."""

import ctypes
import threading
from collections.abc import Sequence

import numpy as np

from epvf.policies.mlp import Policy
from epvf.tasks.engines.lanes import kernel, objects, program
from epvf.tasks.engines.lanes.kernel import Array, Block
from epvf.tasks.engines.lanes.llvm import Lanes
from epvf.tasks.engines.lanes.objects import Code, Target
from epvf.tasks.engines.lanes.program import FLUSH, Program

ROOM = 64
"""Bytes that a block's room is aligned by."""


class Emulated:
    """A kernel compiled for the host: its threads wait for each other as a device's do."""

    def __init__(
        self, made: Program, policy: Policy, name: str, warps: int, lanes: int = 2
    ) -> None:
        host = objects.target()
        self._block = Block(warps, lanes, device=False, fused=host.lanes.fused)
        write = {"episodes": kernel.episodes, "segment": kernel.segment}[name]
        text = write(made, policy, self._block)
        where = Target(Lanes(1, host.lanes.fused), host.cpu, host.features)
        self._code = Code(objects.compile_text(f"{text}\n{_flush()}", where), where)
        self._arrays: Sequence[Array] = {
            "episodes": kernel.EPISODES,
            "segment": kernel.SEGMENT,
        }[name]
        pointers = [ctypes.c_void_p] * len(self._arrays)
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int32, *pointers, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p
        )
        self._call = kind(self._code.address(name))
        self._mode = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self._code.address("flush"))
        self._rows = kernel.num_rows(made, policy)

    def __call__(self, num: int, *arrays: np.ndarray) -> None:
        """Runs it on `num` environments; arrays in the kernel's order, without the room."""
        blocks = -(-num // self._block.lanes)
        room = np.zeros(blocks * self._rows * self._block.lanes, np.int32)
        given = [*arrays, room]
        for array, (name, _) in zip(given, self._arrays, strict=True):
            assert array.flags.c_contiguous and array.dtype.itemsize == 4, name
        for block in range(blocks):
            self._run(block, [array.ctypes.data for array in given])

    def _run(self, block: int, pointers: list[int]) -> None:
        num = self._block.warps * self._block.lanes
        said = [0] * num
        before, after = threading.Barrier(num), threading.Barrier(num)
        mine = threading.local()

        def meet(number: int) -> int:
            said[mine.index] = number
            before.wait(60.0)
            total = int(any(said))
            after.wait(60.0)
            return total

        sign = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(meet)

        def work(index: int) -> None:
            mine.index = index
            mode = np.array([FLUSH], np.int32)
            self._mode(mode.ctypes.data)
            self._call(*pointers, index, block, ctypes.cast(sign, ctypes.c_void_p))

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(num)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120.0)
        assert not any(thread.is_alive() for thread in threads), "threads wait for ever"


def _flush() -> str:
    """The function `flush` of `program`, with what its module needs beside it."""
    return program._flush().replace("#0", "#1") + "\nattributes #1 = { nounwind }"
