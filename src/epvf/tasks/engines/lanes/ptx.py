"""Kernels as PTX, NVIDIA's language of virtual machine code, by LLVM's own target for it."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import llvmlite.binding as binding

from epvf.policies.mlp import Policy
from epvf.tasks.engines.lanes import kernel, objects
from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.kernel import Block
from epvf.tasks.engines.lanes.program import Program

WRITERS = {"episodes": kernel.episodes, "segment": kernel.segment}
"""What writes a kernel, by its name."""

TRIPLE = "nvptx64-nvidia-cuda"
ARCHITECTURE, FEATURES = "sm_80", "+ptx80"
"""The oldest devices (Ampere) and drivers that take it; newer ones translate it for themselves."""


@cache
def source(program: Program, policy: Policy, name: str, warps: int) -> str:
    """The kernel `episodes` or `segment` of blocks of so many warps, from disk if it was there.

    Raises:
        NotLowerable: if the step cannot become such a program.
    """

    # JAX traces by threads: in another one than that which may be tracing a call of the kernel
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_source, program, policy, name, warps).result()


def _source(program: Program, policy: Policy, name: str, warps: int) -> str:
    def write() -> str:
        return assemble(WRITERS[name](program, policy, Block(warps)))

    about = f"{program.fingerprint} {policy!r} {name} {warps} {ARCHITECTURE}"
    return objects.text(about, write)


def assemble(text: str) -> str:
    """A module of `kernel` as PTX. Needs no device.

    Raises:
        NotLowerable: if LLVM has no such target, or refuses the module.
    """
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        module = binding.parse_assembly(f'target triple = "{TRIPLE}"\n{text}')
        module.verify()
        target = binding.Target.from_triple(TRIPLE)
        machine = target.create_target_machine(cpu=ARCHITECTURE, features=FEATURES, opt=2)
        return str(machine.emit_assembly(module))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise NotLowerable(f"LLVM cannot compile the step for a GPU: {reason}") from error
