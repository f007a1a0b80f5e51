"""The shape of the library: which way imports go, what the core does not need, that it ships."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import SOURCE

ROOT = SOURCE.parent
PACKAGE = SOURCE / "epvf"

LAYERS = [
    {"_version", "errors"},
    {"types", "files", "agents", "compilation"},
    {"policy", "perturbation", "targets"},
    {"buffer", "memory", "advantages", "state_value"},
    {"weight_space", "optimizers", "coordinates"},
    {"representations"},
    {"value", "fitting", "search"},
    {"learner", "evolution"},
    {"psvf"},
    {"config"},
    {"presets", "tasks"},
    {"variants", "baselines", "methods", "roofline"},
    {"train", "bench"},
    {"learner_bench"},
    {"psvf_bench"},
    {"iteration_bench"},
    {"policy_file", "checkpoints", "metrics", "startup", "provenance", "interrupt"},
    {"runs", "display", "evaluation", "doctor"},
    {"recorder", "plotting", "options", "usage"},
    {"agent_recorder", "neighbourhood"},
    {"diagnosis"},
    {"training"},
    {"experiments", "sweep"},
    {"cli"},
]
"""Modules and packages from the ground up; each imports only from below, and from itself."""

OPTIONAL = {"baselines": {"brax"}, "tasks": {"warp"}}
"""What only an extra installs, and the room that may import it, once somebody asks for it."""

TASKS_MAY_IMPORT = {"errors", "types", "compilation", "policy", "tasks"}


def _modules():
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }


def _imports(path):
    """Names of the library's own modules that a file imports, and of all others."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "epvf" or (node.module or "").startswith("epvf."):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "epvf":
                others.add(parts[0])
            elif len(parts) > 1 and parts[1] != "__version__":
                own.add(parts[1])
    return own, others


def _room(module):
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_has_its_layer():
    rooms = {_room(module) for module in _modules()} - {"__init__"}
    assert rooms == set().union(*LAYERS)


def test_imports_go_one_way():
    level = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    wrong = []
    for module, path in _modules().items():
        room = _room(module)
        if room == "__init__":
            continue
        for imported in _imports(path)[0] - {room}:
            if imported != room and level[imported] >= level[room]:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_tasks_know_policies_and_nothing_of_learning():
    wrong = [
        f"{module} imports {imported}"
        for module, path in _modules().items()
        if _room(module) == "tasks"
        for imported in _imports(path)[0] - TASKS_MAY_IMPORT
    ]
    assert wrong == []


def test_nothing_is_imported_that_can_load_code_or_is_not_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[\[<>=~! ]", r)[0].lower() for r in project["dependencies"]}
    distributions = {
        "yaml": "pyyaml",
        "orbax": "orbax-checkpoint",
        "docstring_parser": "docstring-parser",
    }
    imported = set().union(
        *(
            _imports(path)[1] - OPTIONAL.get(_room(module), set())
            for module, path in _modules().items()
        )
    )
    assert imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "torch"} == set()
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    assert {distributions.get(name, name).lower() for name in foreign} <= required


def test_every_requirement_is_pinned_and_no_index_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["dev"], *extras["mjx"], *extras["baselines"]]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in listed}
    assert names <= pins.keys()
    assert not {"torch", "tensorflow"} & pins.keys()


def test_training_loads_neither_torch_nor_optional_parts():
    script = (
        "import sys, epvf.training.loop, epvf.runs.recorder, epvf.analysis.evaluation,"
        "epvf.tasks.engines.native, epvf.analysis.drawing,"
        "epvf.training.prepare, epvf.cli.main;"
        "heavy = {'torch', 'brax', 'evosax', 'warp', 'mujoco.mjx', 'flax', 'matplotlib.pyplot'};"
        "sys.exit(str(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "set()\n"


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("epvf-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"epvf/py.typed", "epvf/cli.py", "epvf/tasks/native.py"} <= set(names)
    assert all(name.startswith("epvf") for name in names)

    # Its own environment, with this one's packages behind it.
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    site = next(place.glob("lib/python*/site-packages"))
    (site / "behind.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))
    python = place / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], check=True)
    done = subprocess.run(
        [place / "bin" / "epvf", "train", "cartpole", "--preset", "debug", "--out", "run"],
        cwd=tmp_path,
        env={"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "evaluated return" in done.stdout
    assert Path(tmp_path / "run" / "run.json").exists()
