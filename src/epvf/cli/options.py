"""The configuration as command-line options: every field that the run reads, and no other.

What is read depends on the method, which words of the same command line choose. So these are looked
for first; preset, variant and file make the configuration that the options then change.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from epvf.cli import arguments
from epvf.cli.arguments import Option
from epvf.config.budget import lasting
from epvf.config.presets import PRESETS, preset
from epvf.config.schema import (
    Config,
    Leaf,
    from_dict,
    groups,
    leaves,
    load_fields,
    readable,
    readers,
    reads,
    replace,
)
from epvf.config.variants import VARIANTS, vary
from epvf.errors import UserError
from epvf.methods.registry import METHODS, default_settings
from epvf.tasks.registry import OBJECTIVE

DEFAULT_PRESET: str = PRESETS[1]
DEFAULT_TASK = "cartpole"
"""Whose values help shows where no task is named."""

_NOT_OPTIONS = ("task.name",)
_ABLATED = "value.hidden_sizes"
"""Read by the methods that the paper's ablations are of."""


class Start(NamedTuple):
    """What a configuration starts from, in words of the command line; None: not given.

    Attributes:
        task: its name.
        preset, method, variant: names.
        file: of fields to change.
    """

    task: str
    preset: str | None = None
    method: str | None = None
    variant: str | None = None
    file: Path | None = None

    @property
    def origin(self) -> str:
        """A word for where the configuration comes from."""
        return self.preset or (DEFAULT_PRESET if self.file is None else "config")


def started(start: Start) -> Config:
    """The configuration before single fields are changed: preset, then variant, then file.

    Where neither option nor file names the method it is the preset's.

    Raises:
        UserError: if anything is unknown, of the wrong type, or contradicts something else.
    """
    written = {} if start.file is None else load_fields(start.file)
    method = start.method or written.get("method")
    config = preset(start.task, start.preset or DEFAULT_PRESET, method)
    if start.variant is not None:
        config = _varied(config, start.variant)
    if start.file is None:
        return config
    config = from_dict(written, config)
    if config.task.name != start.task:
        raise UserError(f"{start.file} is for task {config.task.name!r}, not {start.task!r}")
    if start.method not in (None, config.method.name):
        raise UserError(f"{start.file} is for method {config.method.name!r}, not {start.method!r}")
    return config


def started_by(own: Sequence[Option], argv: Sequence[str]) -> Start:
    """What the words of a command line start from, as far as they can be understood.

    Args:
        own: options of the command beside those of the configuration.
        argv: all words.
    """
    words = arguments.split([*own, *of_all_methods()], argv)
    named = {name: values[0] for name, values in words.named.items() if values}
    task = words.loose[0] if words.loose else DEFAULT_TASK
    return Start(
        OBJECTIVE.join([task, *words.named.get("objectives", [])]),
        named.get("preset"),
        named.get("method"),
        named.get("variant"),
        Path(named["config"]) if "config" in named else None,
    )


def options(config: Config) -> list[Option]:
    """One option for each field that a run of this configuration reads."""
    said = {name: arguments.texts(type(group)) for name, group in groups(config).items()}
    said[""] = arguments.texts(Config)
    return [
        _option(leaf, said) for leaf in readable(config).values() if leaf.name not in _NOT_OPTIONS
    ]


def group_texts(config: Config) -> dict[str, str]:
    """What each group of options is, in a line."""
    return {
        name: arguments.about(type(group)).split("\n")[0] for name, group in groups(config).items()
    }


def changed(config: Config, values: Mapping[str, Any], given: Collection[str]) -> Config:
    """The configuration with the values of its options, some of which may differ.

    Env steps without iterations end the run, however many iterations they take.

    Args:
        config: before.
        values: of all options by name.
        given: names of those that the command line has; the others are as before.

    Raises:
        UserError: if they contradict each other.
    """
    before = readable(config)
    delta = {
        name: value
        for name, value in values.items()
        if name in before and value != before[name].value
    }
    config = replace(config, delta)
    alone = "env_steps" in given and "iterations" not in given
    if not alone or config.env_steps is None:
        return config
    return lasting(config, config.env_steps)


def unread(config: Config, flag: str) -> str | None:
    """Why an option of another method is refused; None where no method has it."""
    for option in of_all_methods():
        if flag in (option.flag, option.negation) and not reads(config.method.name, option.name):
            return _unread(config.method.name, flag, readers(option.name))
    return None


def _unread(method: str, what: str, others: list[str]) -> str:
    told = f"; {', '.join(map(repr, others))} {'does' if len(others) == 1 else 'do'}"
    return f"method {method!r} does not read {what}{told}: --method {others[0]}"


def _varied(config: Config, name: str) -> Config:
    if name in VARIANTS and not reads(config.method.name, _ABLATED):
        others = readers(_ABLATED)
        raise UserError(
            f"--variant changes what method {', '.join(map(repr, others))} reads, not "
            f"{config.method.name!r}: --method {others[0]}"
        )
    return vary(config, name)


def of_all_methods() -> list[Option]:
    """Options of the fields of all methods, each once."""
    found: dict[str, Option] = {}
    for method in METHODS.usable():
        for leaf in leaves(Config(method=default_settings(method))):
            if reads(method, leaf.name) and leaf.name not in _NOT_OPTIONS:
                found.setdefault(leaf.name, _option(leaf, {}))
    return list(found.values())


def _option(leaf: Leaf, said: Mapping[str, Mapping[str, str]]) -> Option:
    group, _, last = leaf.name.rpartition(".")
    return Option(leaf.name, leaf.hint, leaf.value, said.get(group, {}).get(last, ""))
