"""`epvf tasks`: what can be solved."""

from dataclasses import dataclass
from typing import Any

from epvf.cli import arguments, extras
from epvf.cli.results import print_result, table


@dataclass(frozen=True)
class Options:
    """List the tasks, their engines, where they come from, and what they need.

    Attributes:
        json: print the list as JSON.
    """

    json: bool = False


def run(argv: list[str]) -> int:
    """Prints the tasks; returns the exit code."""
    asked = arguments.read(Options, "epvf tasks", argv)
    from epvf.tasks.adapters.ids import LIBRARIES
    from epvf.tasks.registry import TASKS, describe

    broken = TASKS.broken()
    found = [
        {
            "name": task.name,
            "origin": task.origin,
            "engines": [
                {
                    "name": engine,
                    "needs": task.needs.get(engine),
                    "installed": extras.installed(task.needs.get(engine)),
                }
                for engine in task.engines
            ],
        }
        for task in describe()
        if task.problem is None
    ]
    libraries = [
        {
            "prefix": prefix,
            "example": library.example,
            "needs": library.extra,
            "installed": extras.installed(library.extra),
        }
        for prefix, library in LIBRARIES.items()
    ]
    told = {"tasks": found, "libraries": libraries, "broken": broken}
    print_result(told, _text(found, libraries, broken), asked.json)
    return 0


def _text(
    found: list[dict[str, Any]], libraries: list[dict[str, Any]], broken: dict[str, str]
) -> str:
    rows = [("task", "from", "engines")]
    rows += [(task["name"], task["origin"], _engines(task["engines"])) for task in found]
    rows += [(f"{x['prefix']}:ID", x["prefix"], _library(x)) for x in libraries]
    others = "also: package.module:factory, file.py:factory"
    return "\n".join([table(rows), others, *extras.broken_lines(broken)])


def _library(library: dict[str, Any]) -> str:
    needs = f" ({extras.told(library['needs'])})" if library["needs"] else ""
    return f"such as {library['example']}{needs}"


def _engines(engines: list[dict[str, Any]]) -> str:
    if not engines:
        return "its own"
    return ", ".join(
        engine["name"] + (f" ({extras.told(engine['needs'])})" if engine["needs"] else "")
        for engine in engines
    )
