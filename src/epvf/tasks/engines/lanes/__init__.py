"""Any environment written in JAX as straight-line SIMD code, one environment a lane.

The step is traced, never written anew: jaxpr -> graph of scalars (`scalarise`, `graph`, `indexing`,
`linear`, `loops`) -> order (`schedule`) -> LLVM's language (`llvm`, `policy`) -> machine code
(`objects`, `program`) -> loops around it (`driver`, `rollout`); or to kernels for a GPU (`kernel`,
`ptx`, `gpu`).
"""

from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.gpu import GpuTask
from epvf.tasks.engines.lanes.rollout import LanesTask, make

__all__ = ["GpuTask", "LanesTask", "NotLowerable", "make"]
