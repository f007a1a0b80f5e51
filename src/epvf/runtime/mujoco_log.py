"""Where MuJoCo's warnings go: by itself it writes `MUJOCO_LOG.TXT` where the user happens to be."""

import logging
import sys

LOGGER = "epvf.mujoco"


def divert() -> None:
    """Has them logged by Python, once MuJoCo is loaded; a handler that is there already stays."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger(LOGGER).warning)
