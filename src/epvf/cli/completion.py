"""`epvf completion`: scripts that complete the command line in shells.

A script holds all words itself, so that completing waits for no Python; after an update of epvf it
is made anew.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple

from epvf.cli import arguments
from epvf.cli.arguments import Option, Shown


@dataclass(frozen=True)
class Options:
    """Print a script that completes commands, options and their values in a shell.

    bash, in ~/.bashrc: eval "$(epvf completion bash)"

    zsh, in ~/.zshrc below compinit: eval "$(epvf completion zsh)"

    fish, once: epvf completion fish > ~/.config/fish/completions/epvf.fish

    Attributes:
        shell: that the script is for.
    """

    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        Shown(positional=True, missing="which shell? epvf completion bash, zsh or fish"),
    ]


class Completed(NamedTuple):
    """What may follow a command.

    Attributes:
        summary: what it does.
        flags: option to its valid values; none where any word or file is one, None for a switch.
        words: that may stand without an option, such as tasks.
    """

    summary: str
    flags: dict[str, tuple[str, ...] | None]
    words: tuple[str, ...] = ()


def run(argv: list[str]) -> int:
    """Prints the script; returns the exit code."""
    asked = arguments.read(Options, "epvf completion", argv)
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print(scripts[asked.shell](commands()))
    return 0


def commands() -> dict[str, Completed]:
    """Every command of the command line, of one or two words, and what may follow it."""
    from epvf.cli.main import COMMANDS

    found = {}
    for name, command in COMMANDS.items():
        module = import_module(f"epvf.cli.{command.module}")
        second = getattr(module, "SUBCOMMANDS", {})
        found[name] = Completed(command.summary, _HELP, tuple(second))
        for word, its in second.items():
            said = arguments.about(its.options).splitlines()[0]
            found[f"{name} {word}"] = _completed(said, arguments.fields(its.options))
        if not second:
            found[name] = _completed(command.summary, _options(name, module))
    return found


def _options(name: str, module: Any) -> list[Option]:
    own = arguments.fields(module.Options)
    if name != "train":
        return own
    from epvf.cli.options import of_all_methods

    return [*own, *of_all_methods()]


_HELP: dict[str, tuple[str, ...] | None] = {"--help": None}


def _completed(summary: str, options: Iterable[Option]) -> Completed:
    flags = dict(_HELP)
    words: tuple[str, ...] = ()
    for option in options:
        if option.shown.positional:
            words = _valid(option) or words
        elif option.switch:
            both = option.default or "." in option.name
            flags |= dict.fromkeys((option.flag, option.negation) if both else (option.flag,))
        else:
            flags[option.flag] = _valid(option)
    return Completed(summary, flags, words)


def _valid(option: Option) -> tuple[str, ...]:
    """The values that an option may have, where they can be listed."""
    shown = arguments.metavar(option)
    if listed := re.search(r"\{(.+)\}", shown):
        return tuple(listed.group(1).split(","))
    if shown.startswith("TASK"):
        from epvf.tasks.registry import TASKS

        return tuple(TASKS.names())
    return ()


def _bash(found: dict[str, Completed]) -> str:
    first = [name for name in found if " " not in name]
    lines = [
        "# bash completion of epvf, made by: epvf completion bash",
        "_epvf() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local command="${COMP_WORDS[1]}" words="" flags=""',
        '    ((COMP_CWORD > 2)) && case "$command ${COMP_WORDS[2]}" in',
        f"        {'|'.join(_quoted(name) for name in found if ' ' in name)})",
        '            command="$command ${COMP_WORDS[2]}" ;;',
        "    esac",
        '    case "$command" in',
    ]
    for name, its in found.items():
        lines.append(f"        {_quoted(name)})")
        if valued := {flag: values for flag, values in its.flags.items() if values}:
            lines.append('            case "$prev" in')
            for flag, values in valued.items():
                told = f'words="{" ".join(values)}"'
                lines.append(f"                {flag}) {told} ;;")
            lines.append("            esac")
        if free := [flag for flag, values in its.flags.items() if values == ()]:
            # any word, or a file
            lines.append(f'            case "$prev" in {"|".join(free)}) return ;; esac')
        lines.append(f'            flags="{" ".join(its.flags)}"')
        lines.append(f'            [ -n "$words" ] || words="{" ".join(its.words)}" ;;')
    lines += [
        "    esac",
        f'    ((COMP_CWORD == 1)) && words="{" ".join(first)} --help --version" flags=""',
        '    case "$cur" in -*) words="$flags $words" ;; esac',
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _epvf epvf",
    ]
    return "\n".join(lines)


def _zsh(found: dict[str, Completed]) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(found)


def _fish(found: dict[str, Completed]) -> str:
    lines = ["# fish completion of epvf, made by: epvf completion fish"]
    first = [name for name in found if " " not in name]
    for name, its in found.items():
        words = name.split()
        there = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)
        before = f"not __fish_seen_subcommand_from {' '.join(first)}"
        if len(words) == 2:
            before = f"__fish_seen_subcommand_from {words[0]}"
        said = its.summary.replace("'", "’")
        lines.append(f"complete -c epvf -n '{before}' -f -a {words[-1]} -d '{said}'")
        if its.words and not any(other.startswith(f"{name} ") for other in found):
            lines.append(f"complete -c epvf -n '{there}' -a '{' '.join(its.words)}'")
        for flag, values in its.flags.items():
            told = "" if values is None else " -r"
            told += f" -a '{' '.join(values)}'" if values else ""
            lines.append(f"complete -c epvf -n '{there}' -l {flag[2:]}{told}")
    return "\n".join(lines)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
