"""Optional parts of an installation."""

import importlib.util

EXTRAS = {
    "mjx": ("mujoco.mjx",),
    "warp": ("mujoco.mjx", "warp"),
    "baselines": ("brax", "evosax"),
    "robots": ("mujoco_menagerie",),
    "brax": ("brax",),
    "gymnax": ("gymnax",),
    "playground": ("mujoco_playground",),
    "viewer": ("viser", "mjviser"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "sweep": ("optuna",),
    "slurm": ("submitit",),
    "ray": ("ray",),
    "onnx": ("onnx",),
    "video": ("imageio", "imageio_ffmpeg", "PIL", "pygame"),
}
"""Extras of `pip install "epvf[EXTRA]"`, and the modules that each needs."""


def installed(extra: str | None) -> bool | None:
    """Whether an extra is there; None where it is not one of ours, so that nobody knows."""
    if extra is None:
        return True
    return all(map(has, EXTRAS[extra])) if extra in EXTRAS else None


def has(module: str) -> bool:
    """Whether a module could be imported, as far as can be told without doing so."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def how_to(extra: str) -> str:
    """How to get an extra."""
    return f'pip install "epvf[{extra}]"'


def told(extra: str | None) -> str:
    """An extra that something needs, in a word or two."""
    if extra is None:
        return "-"
    state = {True: f"{extra}: installed", False: how_to(extra), None: extra}
    return state[installed(extra)]


def broken_lines(broken: dict[str, str]) -> list[str]:
    """Entry points of other packages that do not work, a line each."""
    return [f"cannot be used: {reason}" for reason in broken.values()]
