"""Environments of Gymnasium for tests: `gymnasium:foreign:ID`. Processes import this module."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A point that moves by its action; paid for where it stands.

    Starts at a whole number below 10 that only the seed decides. Terminates beyond 12, truncates
    itself below -6.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space: spaces.Space = spaces.Box(-1.0, 3.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = float(self.np_random.integers(10))
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.place += float(np.sum(action))
        self.steps += 1
        return self._seen(), self.place, self.place > 12.0, self.place < -6.0, {}

    def _seen(self):
        return np.array([self.place, self.steps], np.float64)


class Parts(Walk):
    """The same, seen in parts, and moved by switches."""

    observation_space: Any = spaces.Dict(
        {
            "way": spaces.Discrete(3),
            "at": spaces.Tuple([spaces.Box(-20.0, 20.0, (1, 1)), spaces.MultiBinary(2)]),
        }
    )
    action_space = spaces.MultiBinary(2)

    def _seen(self):
        place = np.full((1, 1), self.place, np.float32)
        return {"way": self.steps % 3, "at": (place, np.array([1, 0], np.int8))}


class Choices(Walk):
    """The same with three choices, the first of which is -1."""

    action_space = spaces.Discrete(3, start=-1)


class Faulty(Walk):
    """Does something wrong when it is made, reset, or has taken some steps."""

    def __init__(self, when="step", what="raise"):
        self.when, self.what = when, what
        self._at("make")

    def reset(self, *, seed=None, options=None):
        self._at("reset")
        return super().reset(seed=seed)

    def step(self, action):
        seen, reward, *rest = super().step(action)
        if self.when == "later" and self.steps == 5:
            self._do()
        if self.when == "step":
            self._at("step")
        if self.what == "nan reward" and self.steps == 3:
            reward = float("nan")
        if self.what == "inf observation" and self.steps == 3:
            seen[0] = np.inf
        return seen, reward, *rest

    def _at(self, place):
        if self.when == place:
            self._do()

    def _do(self):
        if self.what == "raise":
            raise RuntimeError("no display name and no $DISPLAY\nenvironment variable")
        if self.what == "exit":
            os._exit(7)
        if self.what == "abort":
            os.abort()
        if self.what == "print":
            print("I am here")


class Unsound(Walk):
    """Has MuJoCo warn at every step."""

    def __init__(self):
        import mujoco

        ball = "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
        self.model = mujoco.MjModel.from_xml_string(ball)
        self.go_on = mujoco.mj_step
        self.data = mujoco.MjData(self.model)

    def step(self, action):
        self.data.qvel[0] = np.nan
        self.go_on(self.model, self.data)
        return super().step(action)


class Seen(Walk):
    """Observes something strange."""

    def __init__(self, space):
        self.observation_space = space


class Acted(Walk):
    """Takes strange actions."""

    def __init__(self, space):
        self.action_space = space


NODE = spaces.Box(-1.0, 1.0, (2,))

KINDS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("Walk-v0", Walk, {}),
    ("Parts-v0", Parts, {}),
    ("Choices-v0", Choices, {}),
    ("Unmade-v0", Faulty, {"when": "make"}),
    ("Unset-v0", Faulty, {"when": "reset"}),
    ("Unstepped-v0", Faulty, {"when": "step"}),
    ("Later-v0", Faulty, {"when": "later"}),
    ("Exit-v0", Faulty, {"when": "later", "what": "exit"}),
    ("Abort-v0", Faulty, {"when": "reset", "what": "abort"}),
    ("Print-v0", Faulty, {"when": "reset", "what": "print"}),
    ("Unsound-v0", Unsound, {}),
    ("Nan-v0", Faulty, {"when": "never", "what": "nan reward"}),
    ("Inf-v0", Faulty, {"when": "never", "what": "inf observation"}),
    ("Graph-v0", Seen, {"space": spaces.Graph(NODE, None)}),
    ("Image-v0", Seen, {"space": spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
    ("Sequence-v0", Acted, {"space": spaces.Sequence(NODE)}),
)
for name, entry_point, kwargs in KINDS:
    gymnasium.register(name, entry_point, max_episode_steps=8, kwargs=kwargs)

endless: Any = Walk
gymnasium.register("Endless-v0", endless)
