"""What the library needs, that it ships, and that it runs outside the checkout."""

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

OPTIONAL = {
    "methods": {"brax"},
    "policies": {"onnx"},
    "tasks": {"brax", "gymnax", "mujoco_menagerie", "mujoco_playground", "ray", "warp"},
    "runs": {"mlflow", "wandb"},
    "experiments": {"optuna", "ray", "submitit"},
    "view": {"imageio_ffmpeg", "mjviser", "PIL", "pygame", "viser"},
}
"""What only an extra installs, and the room that may import it, once somebody asks for it."""


def _foreign(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, the library's own aside."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found - {"epvf"}


def test_nothing_is_imported_that_can_load_code_or_is_not_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[\[<>=~! ]", r)[0].lower() for r in project["dependencies"]}
    distributions = {
        "yaml": "pyyaml",
        "orbax": "orbax-checkpoint",
        "docstring_parser": "docstring-parser",
    }
    imported: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        imported |= _foreign(path) - OPTIONAL.get(room, set())
    assert imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "torch"} == set()
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    assert {distributions.get(name, name).lower() for name in foreign} <= required


def test_every_requirement_is_pinned_and_no_index_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project["optional-dependencies"]
    pinned = ("dev", "mjx", "baselines", "gymnax", "brax", "playground")
    listed = [*project["dependencies"], *(r for extra in pinned for r in extras[extra])]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in listed}
    assert names <= pins.keys()
    assert not {"torch", "tensorflow"} & pins.keys()


def test_training_loads_neither_torch_nor_optional_parts() -> None:
    script = (
        "import sys, epvf.training.loop, epvf.runs.recorder, epvf.analysis.evaluation,"
        "epvf.tasks.engines.native, epvf.analysis.curves,"
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
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("epvf-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"epvf/py.typed", "epvf/cli/main.py", "epvf/tasks/engines/native.py"} <= set(names)
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
