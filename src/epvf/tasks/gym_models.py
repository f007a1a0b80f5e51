"""The MuJoCo models that come with Gymnasium."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import mujoco

from epvf.errors import UserError


def model_file(name: str, task: str) -> Path:
    """The file of a model.

    Raises:
        UserError: if it is not installed.
    """
    package = find_spec("gymnasium")
    folder = Path(package.origin or "").parent / "envs/mujoco/assets" if package else None
    if folder is None or not (folder / name).is_file():
        raise UserError(
            f"task {task!r} needs the model that comes with gymnasium: pip install gymnasium"
        )
    return folder / name


@cache
def load(name: str, task: str) -> mujoco.MjModel:
    """A model as it is; made once, not to be changed.

    Raises:
        UserError: if its file is not installed.
    """
    return mujoco.MjModel.from_xml_path(str(model_file(name, task)))
