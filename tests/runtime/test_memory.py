"""Memory: what is free is read right, and only what cannot fit is refused."""

import re

import numpy as np
import pytest

from epvf.errors import RunFailed, UserError
from epvf.runtime import memory
from epvf.runtime.memory import Needs, check_fits, explained, measure_peak

MEGABYTE = 1_000_000


def _refusal(num_envs: int, needs: Needs, free: int, multiple: int = 1) -> str:
    with pytest.raises(UserError) as refused:
        check_fits(num_envs, needs, free, multiple)
    return str(refused.value)


# --- what fits


@pytest.mark.parametrize("multiple", [1, 6])
def test_the_number_that_is_told_fits_and_the_next_does_not(multiple: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        needs = Needs(int(rng.integers(1, 1000)), int(rng.integers(1, 100)))
        limit = needs.fixed + int(rng.integers(multiple * 100, 10_000))
        message = _refusal(100_000, needs, limit, multiple)
        found = re.search(r"no more than (\d+) fit", message)
        assert found is not None
        fitting = int(found[1])
        assert fitting > 0 and fitting % multiple == 0
        check_fits(fitting, needs, limit, multiple)
        _refusal(fitting + multiple, needs, limit, multiple)


def test_one_line_tells_needs_free_memory_and_what_to_lower() -> None:
    assert _refusal(65536, Needs(8 * 10**9, 500_000), 23 * 10**9) == (
        "num_envs 65536 needs at least 40.8 GB of memory, but 23 GB are free: no more than 30000 "
        "fit; lower num_envs, buffer.size or policy.hidden_sizes"
    )


def test_a_buffer_that_does_not_fit_is_named() -> None:
    message = _refusal(8, Needs(10**10, 1), 10**9)
    assert "10 GB of it are the buffer" in message and "no more than" not in message


# --- what is free


def test_linux_tells_what_is_available(tmp_path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  100 kB\nMemAvailable:    50 kB\n\nHugePages_Total:  0\n")
    assert memory._free_of_machine(file) == 50 * 1024
    assert (memory._free_of_machine(tmp_path / "none") or 1) > 0


def _group(folder, **files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(str(content))


def test_the_tightest_control_group_counts(tmp_path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/outer/inner\n")
    assert memory._free_of_cgroup(tmp_path, membership) is None
    _group(tmp_path / "outer/inner", memory_max="max\n", memory_current=70)
    _group(tmp_path / "outer", memory_max=100, memory_current=70, memory_stat="anon 50\nfile 20\n")
    assert memory._free_of_cgroup(tmp_path, membership) == 50
    _group(tmp_path / "outer/inner", memory_max=30)
    assert memory._free_of_cgroup(tmp_path, membership) == 0
    assert memory._free_of_cgroup(tmp_path, tmp_path / "none") is None


def test_control_groups_of_version_1(tmp_path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("5:cpu:/job\n4:memory,hugetlb:/job\n0::/\n")
    files = {"memory_limit_in_bytes": 100, "memory_usage_in_bytes": 60}
    _group(tmp_path / "memory/job", **files, memory_stat="total_cache 15\n")
    assert memory._free_of_cgroup(tmp_path, membership) == 55


def test_something_is_free_here() -> None:
    free = memory.free_host_bytes()
    assert free is None or free > 0


# --- what is used


def test_the_peak_of_a_call() -> None:
    size = 64 * MEGABYTE
    total, peak = measure_peak(lambda: np.ones(size, np.uint8).sum())
    assert total == size
    assert peak.host is None or 0.9 * size < peak.host < 4 * size


def test_a_peak_of_the_device_that_an_earlier_one_hides_is_not_known(monkeypatch) -> None:
    stats = {"peak_bytes_in_use": 5}
    monkeypatch.setattr(memory, "_device_stats", lambda: stats)
    assert measure_peak(lambda: None)[1].device is None
    assert measure_peak(lambda: stats.update(peak_bytes_in_use=7))[1].device == 7


def test_running_out_of_memory_is_one_line() -> None:
    with (
        pytest.raises(RunFailed, match="num_envs 3 does not fit the memory"),
        explained("num_envs 3"),
    ):
        np.empty(1 << 62, np.uint8)
    with pytest.raises(ZeroDivisionError), explained("num_envs 3"):
        _ = 1 / 0
