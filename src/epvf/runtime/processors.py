"""Processors of the host."""

import math
import os
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def num_processors() -> int:
    """How many this process may use: of those that it may run on, as many as its quota pays for."""
    quota = quota_of_group()
    return num_visible() if quota is None else max(1, min(num_visible(), math.ceil(quota)))


def num_visible() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota_of_group(root: Path = GROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Processors' worth of time that the tightest control group grants; None: no limit.

    Containers and job schedulers limit time rather than processors; more threads than that only
    wait for each other.
    """
    try:
        lines = membership.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = root / "cpu" if "cpu" in controllers.split(",") else root
        if controllers and base == root:
            continue
        inner = base / path.strip("/")
        for group in (inner, *inner.parents):
            if group.is_relative_to(base):
                found += [quota for quota in (_version_2(group), _version_1(group)) if quota]
    return min(found, default=None)


def _version_2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text("ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None


def _version_1(group: Path) -> float | None:
    try:
        quota, period = (
            int((group / name).read_text("ascii"))
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
