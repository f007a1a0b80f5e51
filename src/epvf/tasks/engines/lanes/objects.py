"""Machine code: what this processor can do, compiling for it, and keeping the result on disk."""

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as binding

from epvf.errors import UserError
from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.llvm import Lanes

WIDTHS = (4, 8, 16)
"""Lanes of 32 bits in a register: SSE and NEON, AVX2, AVX-512."""

_MAGIC = b"epvf lanes 1\n"
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Target:
    """A processor, as LLVM knows it, and how many lanes programs for it have."""

    lanes: Lanes
    cpu: str
    features: str


@cache
def target(width: int | None = None, cpu: str | None = None) -> Target:
    """The host, with as many lanes as fit its registers unless told otherwise.

    Args:
        width: 4, 8 or 16 lanes.
        cpu: another processor that the host can stand in for, by LLVM's name of it.

    Raises:
        UserError: if there are no programs so wide, or this compiler has no code for the host.
    """
    if width is not None and width not in WIDTHS:
        raise UserError(f"lanes are {width} wide, but must be one of {', '.join(map(str, WIDTHS))}")
    try:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        binding.Target.from_default_triple()
    except RuntimeError as error:
        raise UserError(
            f"llvmlite {llvmlite.__version__} makes no code for {platform.machine()}; "
            "use another backend than 'lanes'"
        ) from error
    features = binding.get_host_cpu_features() if cpu is None else binding.FeatureMap()
    has = {name for name, there in features.items() if there}
    if cpu is None:
        features["prefer-256-bit"] = False
    fused = "fma" in has or cpu is not None or platform.machine() in ("arm64", "aarch64")
    if width is None:
        width = 16 if {"avx512f", "avx512vl", "avx512dq"} <= has else 8 if "avx2" in has else 4
    name = binding.get_host_cpu_name() if cpu is None else cpu
    return Target(Lanes(width, fused), name, features.flatten())


class Code:
    """Functions in memory, ready to be called, for as long as this object lives."""

    def __init__(self, data: bytes, where: Target) -> None:
        empty = binding.parse_assembly("")
        self._engine = binding.create_mcjit_compiler(empty, _machine(where))
        self._engine.add_object_file(binding.ObjectFileRef.from_data(data))
        self._engine.finalize_object()
        self.size = len(data)

    def address(self, name: str) -> int:
        """Where a function is."""
        return int(self._engine.get_function_address(name))


def code(about: str, write: Callable[[], str], where: Target) -> Code:
    """The machine code of a module, from disk if it was compiled before.

    Args:
        about: what the module is made of: equal strings make equal modules.
        write: the module's text, if it is needed.
        where: what it is for.

    Raises:
        NotLowerable: if `write` or the compiler cannot do it.
    """
    file = _file(about, where)
    data = _read(file)
    if data is not None:
        with suppress(RuntimeError):  # whole, but not for this machine after all
            return Code(data, where)
    data = compile_text(write(), where)
    _keep(file, data)
    return Code(data, where)


def kept(about: str, where: Target) -> bool:
    """Whether `code` would find it on disk."""
    file = _file(about, where)
    return file is not None and file.is_file()


def text(about: str, write: Callable[[], str]) -> str:
    """A program's text for another machine, from disk if it was written before; see `code`."""
    key = repr((about, _own_version()))
    file = _kept_as(f"{hashlib.sha256(key.encode()).hexdigest()}.ptx")
    data = _read(file)
    if data is None:
        data = write().encode()
        _keep(file, data)
    return data.decode()


def compile_text(text: str, where: Target) -> bytes:
    """An object file of a module's text.

    Raises:
        NotLowerable: if the compiler refuses it.
    """
    try:
        module = binding.parse_assembly(text)
        module.verify()
        return bytes(_machine(where).emit_object(module))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise NotLowerable(f"LLVM cannot compile the step for {where.cpu}: {reason}") from error


def _machine(where: Target) -> Any:
    triple = binding.Target.from_default_triple()
    return triple.create_target_machine(
        cpu=where.cpu, features=where.features, opt=2, jit=True, codemodel="jitdefault"
    )


def folder() -> Path:
    """Where machine code is kept: in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "epvf" / "lanes"


@cache
def _own_version() -> str:
    """A digest of this engine's source, and the compiler's version."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    version = ".".join(map(str, binding.llvm_version_info))
    return f"{digest.hexdigest()} {llvmlite.__version__} {version}"


def _file(about: str, where: Target) -> Path | None:
    key = repr((about, where, binding.get_default_triple(), _own_version()))
    return _kept_as(f"{hashlib.sha256(key.encode()).hexdigest()}.o")


def _kept_as(name: str) -> Path | None:
    try:
        return folder() / name
    except RuntimeError:  # nobody's home
        return None


def _read(file: Path | None) -> bytes | None:
    """What was kept, if it is whole."""
    if file is None:
        return None
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST
    data = kept[start:]
    if kept[:start] != _MAGIC + hashlib.sha256(data).digest():
        return None
    return data


def _keep(file: Path | None, data: bytes) -> None:
    """Writes a file that others see whole or not at all; where that cannot be, it is not kept."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(_MAGIC + hashlib.sha256(data).digest() + data)
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise
