"""Which way imports go: seven storeys, and no circles within a package."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import chain

import pytest

from conftest import SOURCE

PACKAGE = SOURCE / "epvf"

STOREYS = [
    ["errors", "types", "files", "registry", "runtime", "policies"],
    ["tasks", "value"],
    ["methods", "config"],
    ["training", "runs"],
    ["analysis", "view"],
    ["bench", "zoo", "experiments"],
    ["cli"],
]
"""Rooms from the ground up; each imports from lower storeys and, within its own, from its left."""

ORDER = {room: place for place, room in enumerate(chain(*STOREYS))}
DOORS = {"__init__", "__main__"}
"""What stands in front of the rooms, and may open any."""

MOST_ENTRIES = 20


def _modules() -> dict[str, ast.Module]:
    """Parsed files by dotted name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return names


MODULES = _modules()


def _imported(module: str) -> set[str]:
    """The library's own modules that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "epvf"} - {module, "epvf"}


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_has_its_place_and_there_are_few_of_them() -> None:
    assert {_room(module) for module in MODULES} - DOORS <= ORDER.keys()
    # the marker of typed packages is no room
    entries = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= MOST_ENTRIES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_and_to_the_left(module: str) -> None:
    if _room(module) in DOORS:
        return
    rooms = {_room(other) for other in _imported(module)} - {_room(module)}
    assert {room for room in rooms if ORDER[room] > ORDER[_room(module)]} == set()


@pytest.mark.parametrize("room", sorted(ORDER))
def test_no_circles_within_a_package(room: str) -> None:
    within = {module for module in MODULES if _room(module) == room}
    # a package's own __init__ says what it offers, and is imported along with any of its modules
    within -= {f"epvf.{room}"}
    graph = {module: _imported(module) & within for module in within}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_durations_are_measured_by_a_clock_that_nobody_sets() -> None:
    reads = {path.name for path in PACKAGE.rglob("*.py") if "time.time()" in path.read_text()}
    assert reads == {"sinks.py"}  # TensorBoard wants to know the time of day


def test_json_from_anywhere_is_read_in_one_place() -> None:
    reading = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "json.loads" in path.read_text()
    }
    # the others read what processes of this package have written a moment ago
    own = {"tasks/adapters/workers.py", "bench/scaling.py", "cli/zoo.py"}
    assert reading == {"files.py"} | own
