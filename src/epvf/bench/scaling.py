"""One measurement after the other over a growing number of policies: a scaling curve.

Each is `epvf bench` in a process of its own, so that none finds what another left in memory, each
has its own peak, and one that is ended for lack of memory ends alone.
"""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from epvf.analysis import drawing
from epvf.errors import RunFailed, UserError, unknown
from epvf.files import write_atomically, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIELDS = ("num_envs",)
"""What can be swept."""

Row: TypeAlias = dict[str, Any]
"""What `epvf bench --json` tells, or the swept value and an `error`."""

Measure: TypeAlias = Callable[[int], Row]

COLUMNS = {
    "steps/s": ("steps_per_second", 1.0),
    "bare/s": ("bare_steps_per_second", 1.0),
    "ratio": ("ratio", 1.0),
    "bound/s": ("roofline.bound_steps_per_second", 1.0),
    "Θ ms": ("propose_ms", 1.0),
    "V ms": ("value_ms", 1.0),
    "π ms": ("policy_ms", 1.0),
    "iteration ms": ("iteration_ms", 1.0),
    "compile s": ("rollout_compile_seconds", 1.0),
    "Θ MB": ("theta_bytes", 1e-6),
    "host MB": ("peak_memory_bytes", 1e-6),
    "device MB": ("peak_device_bytes", 1e-6),
}
"""Columns of the printed table: the number's name in a row, and the factor to its unit."""


class Sweep(NamedTuple):
    """A field and the values that it takes, ascending."""

    field: str
    values: tuple[int, ...]


def parse(text: str) -> Sweep:
    """Reads `num_envs=512,1024`.

    Raises:
        UserError: if it is not a field and positive whole numbers.
    """
    field, equals, listed = text.partition("=")
    field = field.strip().replace("-", "_")
    if not equals:
        raise UserError(f"cannot make sense of sweep {text!r}; write it as num_envs=512,1024,4096")
    if field not in FIELDS:
        raise unknown("field to sweep", field, FIELDS)
    try:
        values = sorted({int(value) for value in listed.split(",")})
    except ValueError:
        raise UserError(
            f"sweep {text!r} must list whole numbers, as in num_envs=512,1024,4096"
        ) from None
    if values[0] < 1:
        raise UserError(f"{field} is {values[0]}, but must be at least 1")
    return Sweep(field, tuple(values))


def run(sweep: Sweep, measure: Measure, tell: Callable[[str], None]) -> list[Row]:
    """Measures at each value; a failure is a row with an `error`.

    Raises:
        UserError: if none could be measured; it says why the first could not.
    """
    rows = []
    for value in sweep.values:
        row = measure(value)
        rows.append(row)
        outcome = row.get("error") or f"{_shown(row['steps_per_second'])} env steps/s"
        tell(f"{sweep.field} {value}: {outcome}")
    if all("error" in row for row in rows):
        raise UserError(rows[0]["error"])
    return rows


def measure_apart(arguments: Sequence[str], field: str) -> Measure:
    """`epvf bench` with these arguments and the field's value, in a process of its own."""
    option = f"--{field.replace('_', '-')}"

    def measure(value: int) -> Row:
        command = [sys.executable, "-m", "epvf", "bench", *arguments, option, str(value)]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True)
        if done.returncode == 0:
            # an engine may have said something before
            return json.loads(done.stdout.strip().splitlines()[-1])
        return {field: value, "error": _reason(done)}

    return measure


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Why a process failed, in a line."""
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}, as the system does where memory runs out"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    # a traceback's error may be followed by remarks on it
    errors = [line for line in lines if re.match(r"epvf: error: |[\w.]+(Error|Exception)\b", line)]
    return (errors or lines)[-1].removeprefix("epvf: error: ")


def table(sweep: Sweep, rows: Iterable[Row]) -> str:
    """The rows as lines of text, without the columns of which nothing is known."""
    rows = list(rows)
    known = {
        title: [_cell(row, *source) for row in rows]
        for title, source in COLUMNS.items()
        if any(_number(row, source[0]) is not None for row in rows)
    }
    cells = {sweep.field: [str(value) for value in sweep.values], **known}
    widths = {title: max(map(len, (title, *column))) for title, column in cells.items()}
    lines = ["  ".join(f"{title:>{widths[title]}}" for title in cells)]
    for i, row in enumerate(rows):
        if "error" in row:
            lines.append(f"{sweep.values[i]:>{widths[sweep.field]}}  {row['error']}")
        else:
            lines.append("  ".join(f"{cells[title][i]:>{widths[title]}}" for title in cells))
    return "\n".join(lines)


def write(folder: Path, sweep: Sweep, rows: list[Row]) -> list[Path]:
    """Writes `results.json`, `results.csv`, `scaling.png` and `scaling.pdf`.

    Returns:
        The files.

    Raises:
        UserError: if they cannot be written.
    """
    names = ("results.json", "results.csv", "scaling.png", "scaling.pdf")
    files = [folder / name for name in names]
    check_folder(folder)
    write_json(files[0], {"sweep": sweep.field, "results": rows})
    write_atomically(files[1], _csv(sweep, rows).encode())
    drawing.save(draw(sweep, rows), *files[2:])
    return files


def check_folder(folder: Path) -> None:
    """Makes a folder, before what goes into it is measured.

    Raises:
        UserError: if that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {folder}: {error.strerror}") from error


def draw(sweep: Sweep, rows: Iterable[Row]) -> "Figure":
    """Env steps per second, seconds of an iteration, and memory, over the swept field."""
    measured = [row for row in rows if "error" not in row]
    if not measured:
        raise RunFailed("nothing was measured that could be drawn")
    about = "{task}, backend {backend}, {device}, preset {preset}; medians of {repeats} turns"
    panels = {
        "env steps per second": _speeds(measured),
        "seconds an iteration": _costs(measured),
        "bytes": _memories(measured),
    }
    values = [row[sweep.field] for row in measured]
    return drawing.scaling(sweep.field, values, panels, about.format(**measured[0]))


def _speeds(rows: list[Row]) -> drawing.Lines:
    return {
        "closed loop": _column(rows, "steps_per_second"),
        "bare stepping": _column(rows, "bare_steps_per_second"),
        "roofline": _column(rows, "roofline.bound_steps_per_second"),
    }


def _costs(rows: list[Row]) -> drawing.Lines:
    return {
        "population": _column(rows, "propose_ms", 1e-3),
        "rollouts": _column(rows, "rollout_ms", 1e-3),
        "value updates": _column(rows, "value_ms", 1e-3),
        "policy updates": _column(rows, "policy_ms", 1e-3),
    }


def _memories(rows: list[Row]) -> drawing.Lines:
    return {
        "populations Θ": _column(rows, "theta_bytes"),
        "host, peak of a rollout": _column(rows, "peak_memory_bytes"),
        "device, peak": _column(rows, "peak_device_bytes"),
        "learner's updates": _column(rows, "learner_bytes"),
    }


def _column(rows: list[Row], name: str, factor: float = 1.0) -> list[float | None]:
    numbers = (_number(row, name) for row in rows)
    return [None if number is None else number * factor for number in numbers]


def _csv(sweep: Sweep, rows: list[Row]) -> str:
    """All rows, with what is nested under dotted names."""
    flat = [_flatten(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    names.sort(key=lambda name: name != sweep.field)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flatten(row: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = f"{value:.6g}" if isinstance(value, float) else value
    return flat


def _number(row: Row, name: str) -> float | None:
    """A field, or a dotted one; None where it is not known."""
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _cell(row: Row, name: str, factor: float) -> str:
    number = _number(row, name)
    return "-" if number is None else _shown(number * factor)


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
