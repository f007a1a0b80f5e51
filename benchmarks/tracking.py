"""How well policies of `go2` follow a commanded velocity, on MuJoCo's C engine.

    python benchmarks/tracking.py RUN|POLICY_FILE ... [--command 1 0 0] [--episodes 20]

Episodes of 20 s from the task's own starts. Of each: whether the robot fell, and its velocity in
the trunk's frame, averaged over every second but the first, in which it starts from standing. Told
are the mean velocity and turning, and by how much forward and sideways velocity together are off in
the mean and in the worst second of all episodes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from epvf.tasks.ant import torso_frame
from epvf.tasks.registry import body_behind
from epvf.tasks.starts import commanded
from epvf.view.cast import Actor, cast
from epvf.view.rollouts import BodyRollout, start_of


def tracked(actor: Actor, command: tuple[float, ...], episodes: int) -> dict[str, Any]:
    """What one policy does."""
    saved = actor.saved
    body = body_behind(saved.task)
    assert body is not None
    body = commanded(body, command)
    second = round(1.0 / body.step_seconds)
    means, falls, returns = [], 0, []
    for seed in range(episodes):
        start = start_of(body, seed)
        rollout = BodyRollout(body, saved.policy, saved.theta, start, body.episode_length)
        seen = []
        while not rollout.over:
            rollout.advance()
            vx, vy, *_ = torso_frame(rollout.data.qpos, rollout.data.qvel)
            seen.append((vx, vy, rollout.data.qvel[5]))
        returns.append(rollout.total)
        falls += rollout.steps < body.episode_length
        whole = len(seen) // second
        means.append(np.asarray(seen[: whole * second]).reshape(whole, second, 3).mean(axis=1)[1:])
    seconds = np.concatenate(means)
    off = np.linalg.norm(seconds[:, :2] - np.asarray(command[:2])[None], axis=1)
    return {
        "policy": actor.name,
        "command": list(command),
        "episodes": episodes,
        "falls": falls,
        "episode_return": float(np.mean(returns)),
        "velocity": seconds.mean(axis=0).round(4).tolist(),
        "off_mean": float(off.mean()),
        "off_worst_second": float(off.max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("what", nargs="+", type=Path)
    parser.add_argument("--command", nargs=3, type=float, default=(1.0, 0.0, 0.0))
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--policy", default="best", choices=("best", "last"))
    asked = parser.parse_args()
    for actor in cast(asked.what, asked.policy):
        print(json.dumps(tracked(actor, tuple(asked.command), asked.episodes)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
