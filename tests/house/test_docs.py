"""Commands in README and docs are such that the command line takes; links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import epvf
from conftest import SOURCE
from epvf.analysis.trained_value import TrainedValue
from epvf.cli import arguments, train
from epvf.cli.main import COMMANDS
from epvf.errors import UserError

ROOT = SOURCE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

STANDS_FOR = {
    "TASK": "ant",
    "TEXT": "text",
    "K": "40",
    "RUN": "run",
    "POLICY": "policy.safetensors",
    "FILE": "file",
    "DIR": "folder",
    "S": "0",
    "N": "10000",
    "X": "0.3",
    "UPDATE": "5",
    "METHOD": "epvf",
    "SEED": "0",
    "OPTIONS": None,
    "...": None,
}
"""What a reader puts in the place of a word; None: nothing."""


NO_COMMAND = r"[…|]|\.\.\.|COMMAND|package\.module|train reach$"
"""In the text: parts of commands, and names that only the page's own code registers."""


def _commands(page: Path) -> list[str]:
    """Lines that begin with `epvf`, in blocks of code, joined where they go on; and in the text."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *(?:\$ )?(epvf [^\n]*)$", text, re.MULTILINE)
    blocks = [line for line in lines if not re.search(r"[.:;]$|\[|`", line)]
    spans = re.findall(r"`(epvf [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    whole = [span for span in spans if len(span.split()) > 2 and not re.search(NO_COMMAND, span)]
    return blocks + whole


CASES = [(page.name, line) for page in PAGES for line in _commands(page)]


def test_there_are_commands_to_be_tried() -> None:
    assert len(CASES) > 60
    assert {line.split()[1] for _, line in CASES} > {"train", "resume", "eval", "compare", "bench"}


@pytest.mark.parametrize(("page", "line"), sorted(set(CASES)))
def test_a_command_in_the_docs_is_understood(page: str, line: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)  # where pages say that examples/ lies
    words = shlex.split(line, comments=True)[1:]
    words = [told for word in words if (told := STANDS_FOR.get(word, word)) is not None]
    name, *argv = words
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    module = import_module(f"epvf.cli.{COMMANDS[name].module}")
    if "--config" in argv or {"-h", "--help"} & set(argv):
        return  # of a file that the page only shows; help ends the program
    if name == "train":
        try:
            train.understood(argv)
        except UserError as error:
            if "downloads the robot's model" not in str(error):
                raise
            pytest.skip(str(error))
    elif hasattr(module, "SUBCOMMANDS"):
        second, *argv = argv
        if not {"-h", "--help"} & {second}:
            kind = module.SUBCOMMANDS[second].options
            arguments.read(kind, f"epvf {name} {second}", argv)
    else:
        arguments.read(module.Options, f"epvf {name}", argv)


def _others(page: Path) -> list[str]:
    """Commands of other programs: lines of blocks, and in the text."""
    text = re.sub(r"^\[!.*$", "", page.read_text().replace("\\\n", " "), flags=re.MULTILINE)
    start = r"(?:python3? |make |pip |(?:tools|benchmarks)/\S+\.sh)"
    lines = re.findall(rf"^ *({start}[^\n]*)$|`({start}[^`]+)`", text, re.MULTILINE)
    return [line or span for line, span in lines]


OTHERS = [(page.name, line) for page in PAGES for line in _others(page)]


@pytest.mark.parametrize(("page", "line"), sorted(set(OTHERS)))
def test_a_command_of_another_program_names_what_there_is(page: str, line: str) -> None:
    program, *words = shlex.split(re.sub(r"  +\S.*| #.*", "", line))
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    elif program == "pip":
        extras = set(re.findall(r"\[([a-z0-9,]+)\]", line))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = {extra for found in extras for extra in found.split(",")}
        assert named <= set(project["optional-dependencies"])
    elif words[:1] in (["-c"], ["-m"]):
        compile(words[1] if words[0] == "-c" else f"import {words[1]}", line, "exec")
    else:
        script = program if program.endswith(".sh") else words[0]
        source = (ROOT / script).read_text()
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, option
        if script == "benchmarks/figures.py":
            assert f'["{words[1]}"]' in source


def test_the_docs_name_other_programs() -> None:
    assert {line.split()[0] for _, line in OTHERS} >= {"make", "pip", "python"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    found = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in found if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    missing = []
    for name in set(re.findall(r"`(epvf(?:\.[a-z_]\w*)+)", text)):
        parts = name.split(".")
        # a module, or something in one
        if not any(_is_module(parts[:end]) for end in (len(parts), len(parts) - 1)):
            missing.append(name)
    assert missing == []
    files = re.findall(r"(?:src/epvf|tests|benchmarks|examples)/[\w/.-]+\.(?:py|sh)", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


FIGURES = [
    (page.relative_to(ROOT).as_posix(), figure)
    for page in PAGES
    for figure in re.findall(r"!\[[^\]]*\]\((?:docs/)?figures/([^)]+)\)", page.read_text())
]


@pytest.mark.parametrize(("page", "figure"), FIGURES)
def test_a_figure_has_the_command_that_makes_it_beside_it(page: str, figure: str) -> None:
    sections = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    around = next(section for section in sections if f"figures/{figure})" in section)
    assert re.search(r"epvf (train|compare|experiment|diagnose|landscape|play) ", around)


def test_figures_are_drawn_from_data_that_is_committed() -> None:
    # by hand, and of whole runs
    drawings = {"algorithm.svg", "ant.gif", "go2.gif", "landscape-ant.png"}
    folder = ROOT / "docs" / "figures"
    done = subprocess.run(
        [sys.executable, "-c", "import figures; print(*figures.drawn())"],
        env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{ROOT / 'benchmarks'}"},
        capture_output=True,
        text=True,
    )
    drawn = {f"{name}.png" for name in done.stdout.split()}
    there = {path.name for path in folder.iterdir()}
    assert there == drawn | drawings
    assert there == {figure for _, figure in FIGURES}


def _is_module(parts: list[str]) -> bool:
    path = SOURCE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.slow
def test_the_readmes_python_runs_and_uses_public_names_only(workplace: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert set(re.findall(r"\bepvf\.(\w+)", block)) <= set(epvf.__all__)
    assert re.findall(r"^(?:from|import) (\S+)", block, re.MULTILINE) == ["epvf"]
    names: dict[str, object] = {}
    exec(block, names)  # the page's own example
    assert isinstance(names["value"], TrainedValue)
