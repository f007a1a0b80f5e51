"""Machine code: targets, and what is kept on disk."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from epvf.errors import UserError
from epvf.tasks.engines.lanes import NotLowerable, objects
from epvf.tasks.engines.lanes.llvm import Lanes

TEXT = "define i32 @f() {\n ret i32 7\n}"


class Writer:
    """Writes a module, and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        return TEXT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "epvf" / "lanes"


def _value(code: objects.Code) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int32)(code.address("f"))())


def test_what_was_compiled_once_is_read_again(folder: Path) -> None:
    write = Writer()
    assert _value(objects.code("a", write, objects.target())) == 7
    assert _value(objects.code("a", write, objects.target())) == 7
    assert write.calls == 1
    assert _value(objects.code("b", write, objects.target())) == 7
    assert write.calls == 2 and len(list(folder.glob("*.o"))) == 2


def test_another_processor_or_version_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer()
    objects.code("a", write, objects.target(16))
    objects.code("a", write, objects.target(4))
    assert write.calls == 2
    monkeypatch.setattr(objects, "_own_version", lambda: "another")
    objects.code("a", write, objects.target(4))
    assert write.calls == 3


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-9], lambda data: b"", lambda data: b"x" + data]
)
def test_a_file_that_is_not_whole_is_made_anew(folder: Path, harm) -> None:
    write = Writer()
    objects.code("a", write, objects.target())
    (file,) = folder.glob("*.o")
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert _value(objects.code("a", write, objects.target())) == 7
    assert write.calls == 2 and file.read_bytes() == whole


def test_without_a_place_to_keep_it_code_is_compiled_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    write = Writer()
    assert _value(objects.code("a", write, objects.target())) == 7
    assert _value(objects.code("a", write, objects.target())) == 7
    assert write.calls == 2


def test_a_read_only_folder_is_read_and_not_written(folder: Path, monkeypatch) -> None:
    write = Writer()
    objects.code("a", write, objects.target())

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError

    monkeypatch.setattr(objects.tempfile, "mkstemp", refuse)
    objects.code("a", write, objects.target())
    assert write.calls == 1
    assert _value(objects.code("b", write, objects.target())) == 7
    assert len(list(folder.iterdir())) == 1


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert _value(objects.code("a", Writer(), objects.target())) == 7
    assert list(folder.iterdir()) == []


def test_several_may_compile_the_same_at_once(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: objects.code("a", Writer(), objects.target()), range(8)))
    assert [_value(code) for code in codes] == [7] * 8
    assert [file.suffix for file in folder.iterdir()] == [".o"]


def test_a_text_that_the_compiler_refuses_is_one_line() -> None:
    with pytest.raises(NotLowerable, match="LLVM cannot compile the step") as caught:
        objects.compile_text("define nonsense", objects.target())
    assert "\n" not in str(caught.value)


def test_widths_are_named() -> None:
    with pytest.raises(UserError, match="lanes are 5 wide, but must be one of 4, 8, 16"):
        objects.target(5)


@pytest.mark.parametrize(
    ("features", "width", "fused"),
    [
        (["avx512f", "avx512vl", "avx512dq", "avx2", "fma"], 16, True),
        (["avx512f", "avx2", "fma"], 8, True),
        (["sse4.2"], 4, False),
    ],
)
def test_there_are_as_many_lanes_as_registers_hold(features, width, fused, monkeypatch) -> None:
    there = objects.binding.FeatureMap(dict.fromkeys(features, True))
    monkeypatch.setattr(objects.binding, "get_host_cpu_features", lambda: there)
    monkeypatch.setattr(objects.platform, "machine", lambda: "x86_64")
    assert objects.target.__wrapped__().lanes == Lanes(width, fused)


def test_a_compiler_without_code_for_the_processor_is_one_line(monkeypatch) -> None:
    def none() -> None:
        raise RuntimeError("No available targets are compatible with triple")

    monkeypatch.setattr(objects.binding.Target, "from_default_triple", none)
    with pytest.raises(UserError, match=r"makes no code for .*; use another backend than 'lanes'"):
        objects.target.__wrapped__()


def test_what_is_kept_is_known_without_reading_it() -> None:
    assert not objects.kept("a", objects.target())
    objects.code("a", Writer(), objects.target())
    assert objects.kept("a", objects.target()) and not objects.kept("a", objects.target(4))
