"""The configuration as command-line options: every field, named by its group, unset by default.

What the user gives arrives as a nested dict of only that, and is checked by `config.from_dict`
like a file: one place knows what is valid.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import docstring_parser
import tyro

from epvf.config.presets import PRESETS, TASKS, fits, preset
from epvf.config.schema import METHODS, Config, from_dict, load_fields
from epvf.config.variants import VARIANTS, vary
from epvf.errors import UserError

DEFAULT_PRESET = "tuned"
# Types made at run time, which type checkers cannot follow.
_POSITIONAL: Any = tyro.conf.Positional
_TYPED_DICT: Any = TypedDict
_V_THETA = {"variant", "buffer", "representation", "value", "target", "value_update"}
"""What only V(θ) reads: asking for it asks for method `epvf`."""
_OWN = ("task_name", "preset", "variant", "config", "out", "backend", "json")


def train_options(argv: list[str]) -> Any:
    """The type that `epvf train` parses its arguments into: a dict of what was given.

    The help shows the values of the task, preset and method that `argv` seems to ask for.
    """
    task = next((word for word in argv if word in TASKS), TASKS[0])
    name = next((word for word in argv if word in PRESETS), DEFAULT_PRESET)
    method = next((word for word in argv if word in METHODS and fits(task, word)), None)
    own = {
        "task_name": _POSITIONAL[
            _own(str, f"what to solve: {', '.join(TASKS)}", "(required)", "TASK")
        ],
        "preset": _own(
            str,
            "named configuration",
            f"(default: {DEFAULT_PRESET})",
            "{" + ",".join(PRESETS) + "}",
        ),
        "variant": _own(
            str,
            "one of the paper's ablations, applied to the preset",
            "(default: none)",
            "{" + ",".join(VARIANTS) + "}",
        ),
        "config": _own(str, "JSON or YAML file of fields to change", "(default: none)", "FILE"),
        "out": _own(str, "run folder to make", "(default: runs/TASK/TIME-PRESET-sSEED)", "DIR"),
        "backend": _own(str, "the engine; the same as --task.backend", "(default: auto)", "NAME"),
        "json": _own(bool, "print the result as JSON", "(default: False)", None),
    }
    fields = _fields(preset(task, name, method), "", leave_out=("task.name",))
    options = _TYPED_DICT("TrainOptions", own | fields, total=False)
    options.__doc__ = (
        "Train a task into a new run folder; every field of the configuration is an option."
    )
    return options


def train_config(given: Mapping[str, Any]) -> tuple[Config, str]:
    """The configuration that was asked for, and a word for where it started from.

    Preset (of task and method), then variant, then file, then single fields. Where neither option
    nor file names the method it is the preset's, or `epvf` where something of V(θ) is asked for.

    Raises:
        UserError: if anything is unknown, of the wrong type, or contradicts something else.
    """
    if "task_name" not in given:
        raise UserError(f"which task? epvf train TASK; valid: {', '.join(TASKS)}")
    task = given["task_name"]
    written = load_fields(Path(given["config"])) if "config" in given else {}
    asked = {name for name, value in (*given.items(), *written.items()) if value != {}}
    implied = "epvf" if _V_THETA & asked else None
    method = given.get("method", written.get("method", implied))
    config = preset(task, given.get("preset", DEFAULT_PRESET), method)
    if "variant" in given:
        if config.method != "epvf":
            raise UserError(f"--variant changes method 'epvf', not {method!r}")
        config = vary(config, given["variant"])
    if "config" in given:
        config = from_dict(written, config)
        if config.task.name != task:
            raise UserError(f"{given['config']} is for task {config.task.name!r}, not {task!r}")
        if config.method != method and "method" in given:
            raise UserError(f"{given['config']} is for method {config.method!r}, not {method!r}")
    delta = _plain({name: value for name, value in given.items() if name not in _OWN})
    if "backend" in given:
        if "backend" in delta.setdefault("task", {}):
            raise UserError("--backend and --task.backend say the same; give one of them")
        delta["task"]["backend"] = given["backend"]
    origin = given.get("preset", "config" if "config" in given else DEFAULT_PRESET)
    return from_dict(delta, config), origin


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as plain values."""
    return {
        name: _plain(value) if isinstance(value, Mapping) else _value(value)
        for name, value in given.items()
        if value != {}
    }


def _fields(config: Any, prefix: str, leave_out: tuple[str, ...]) -> dict[str, Any]:
    hints, texts = typing.get_type_hints(type(config)), _texts(type(config))
    fields: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if name in leave_out:
            continue
        if dataclasses.is_dataclass(value):
            inner = _fields(value, f"{name}.", leave_out)
            group = _TYPED_DICT(item.name, inner, total=False)
            text = inspect.cleandoc(type(value).__doc__ or "").split("\n")[0]
            fields[item.name] = Annotated[group, tyro.conf.arg(help=text)]
        else:
            fields[item.name] = _option(hints[item.name], value, texts.get(item.name, ""))
    return fields


def _texts(kind: type) -> dict[str, str]:
    """What a class's docstring says of its attributes."""
    parsed = docstring_parser.parse(kind.__doc__ or "")
    return {
        name.strip(): " ".join((param.description or "").split())
        for param in parsed.params
        for name in param.arg_name.split(",")
    }


def _own(kind: Any, text: str, hint: str, metavar: str | None) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text, help_behavior_hint=hint, metavar=metavar)]


def _option(hint: Any, default: Any, text: str) -> Any:
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    kind: Any = str
    if hint is bool:
        kind = bool
    elif typing.get_origin(hint) is tuple:
        kind = tuple[str, ...]
    default_text = f"(default: {'none' if default in (None, ()) else shown})"
    return _own(kind, text, default_text, None if hint is bool else _metavar(hint))


def _metavar(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join("none" if part is type(None) else _metavar(part) for part in parts)
    if origin is tuple:
        return f"[{_metavar(parts[0])} ...]"
    return hint.__name__.upper()


def _value(given: Any) -> Any:
    """A number, a list of them, or None where the text says so; otherwise the text."""
    if given == ("none",):
        return []
    if isinstance(given, tuple):
        return [_value(part) for part in given]
    if not isinstance(given, str):
        return given
    if given.lower() in ("none", "null"):
        return None
    try:
        return int(given)
    except ValueError:
        pass
    try:
        number = float(given)
    except ValueError:
        return given
    # 25e6 is a whole number to a person.
    return int(number) if number.is_integer() else number
