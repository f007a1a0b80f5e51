"""What there is already, into a zoo: policy files, and runs with what their V has learned from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from epvf.analysis.trained_value import load_value
from epvf.errors import UserError
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.runs.folder import policy_path, read_config
from epvf.zoo.keeper import task_fingerprint
from epvf.zoo.rollouts import Roller
from epvf.zoo.store import Origin, Rows

Found = tuple[Policy, Rows, Origin]


def collected(what: Path, task: str | None, episodes: int, seed: int) -> Iterator[Found]:
    """The policies of a run's folder or of a file.

    Of a run these are its best and its last policy, of every seed, and the pairs that its V was
    last fitted to, where it has any.

    Args:
        what: folder or file.
        task: of files that do not tell theirs; None: as the file tells.
        episodes: to play each policy that is saved; 0: none, a file's own word is taken.
        seed: of these episodes.

    Raises:
        UserError: if it is neither a run nor a policy, or nobody knows the task.
    """
    if not what.is_dir():
        yield _of_file(what, task, episodes, seed)
        return
    config = read_config(what)
    for which in ("best", "last"):
        names = (
            [None] if config.num_seeds == 1 else range(config.seed, config.seed + config.num_seeds)
        )
        for name in names:
            path = policy_path(what, which, name)
            if path.exists():
                yield _of_file(path, task, episodes, seed, what)
    for number in range(config.seed, config.seed + config.num_seeds):
        try:
            value = load_value(what, number)
            pairs = value.buffer()
        except UserError:
            return  # no V of policies, or none that keeps what it learned from
        nothing = np.full(len(pairs.returns), np.nan, np.float32)
        ones = np.ones(len(pairs.returns), np.int32)
        origin = _origin(config.task.name, what, config.method.name, number)
        origin = origin._replace(engine=config.task.backend)
        yield value.policy, Rows(pairs.thetas, pairs.returns, nothing, ones), origin


def _of_file(
    path: Path, task: str | None, episodes: int, seed: int, run: Path | None = None
) -> Found:
    saved = load_policy(path)
    name = saved.task or task or ""
    if not name:
        raise UserError(f"{path} does not tell its task; give --task")
    if task not in (None, name):
        raise UserError(f"{path} is a policy of task {name!r}, not {task!r}")
    told = saved.metadata
    origin = _origin(name, run or path, told.get("method", told.get("origin", "")))
    origin = origin._replace(
        engine=told.get("backend", ""),
        episode_length=_number(told, "episode_length", 0),
        seed=_number(told, "seed", -1),
        update=_number(told, "update", -1),
    )
    return saved.policy, _measured(saved, name, episodes, seed, origin), origin


def _measured(saved: SavedPolicy, task: str, episodes: int, seed: int, origin: Origin) -> Rows:
    value, count = _float(saved.metadata.get("episode_return", "nan")), 0
    if episodes:
        length = origin.episode_length or None
        returns = Roller(task, saved.policy, episode_length=length, seed=seed)(
            saved.theta[None], episodes
        )
        value, count = float(returns.mean()), episodes
    return Rows(
        saved.theta[None],
        np.array([value], np.float32),
        np.array([np.nan], np.float32),
        np.array([count], np.int32),
    )


def _origin(task: str, source: Path, method: str, seed: int = -1) -> Origin:
    return Origin(
        task, fingerprint=task_fingerprint(task), source=str(source), method=method, seed=seed
    )


def _number(told: dict[str, str], name: str, missing: int) -> int:
    text = told.get(name, "")
    return int(text) if text.isdigit() else missing


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
