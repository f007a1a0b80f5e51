"""`epvf methods`: what can learn."""

from dataclasses import dataclass
from typing import Any

from epvf.cli import arguments, extras
from epvf.cli.results import print_result, table


@dataclass(frozen=True)
class Options:
    """List the methods, where they come from, and what they need.

    Attributes:
        json: print the list as JSON.
    """

    json: bool = False


def run(argv: list[str]) -> int:
    """Prints the methods; returns the exit code."""
    asked = arguments.read(Options, "epvf methods", argv)
    from epvf.methods.registry import METHODS

    broken, usable = METHODS.broken(), METHODS.usable()
    found = [_described(name, origin) for name, origin in METHODS.entries() if name in usable]
    print_result({"methods": found, "broken": broken}, _text(found, broken), asked.json)
    return 0


def _described(name: str, origin: str) -> dict[str, Any]:
    from epvf.methods.registry import METHODS

    method = METHODS[name]
    return {
        "name": name,
        "summary": method.summary,
        "origin": origin,
        "needs": method.needs,
        "installed": extras.installed(method.needs),
        "resumable": method.resumable,
    }


def _text(found: list[dict[str, Any]], broken: dict[str, str]) -> str:
    rows = [("method", "from", "needs", "what it is")]
    rows += [(m["name"], m["origin"], extras.told(m["needs"]), m["summary"]) for m in found]
    return "\n".join([table(rows), *extras.broken_lines(broken)])
