"""What is known of a body without tracing it."""

from dataclasses import replace
from functools import partial

import mujoco
import pytest

from epvf.tasks import identity
from epvf.tasks.ant import BODY as ANT
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.hopper import BODY as HOPPER


def _heavier():
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    model.opt.gravity[2] = -1.0
    return model


def test_it_differs_where_the_physics_or_the_formulas_differ():
    others = [
        HOPPER,
        replace(ANT, frame_skip=2),
        replace(ANT, observation_limit=1.0),
        replace(ANT, reward=HOPPER.reward),
        replace(ANT, terminated=None),
        replace(ANT, model=_heavier),
        replace(ANT, action_scale=(0.5,) * 8),
        replace(ANT, action_offset=(0.5,) * 8),
    ]
    known = [identity.of_body(body) for body in (ANT, *others)]
    assert None not in known and len(set(known)) == len(known)
    assert identity.of_body(ANT) == known[0]


def test_somebody_elses_formulas_are_not_known():
    def mine(s):
        return s.qpos[0]

    assert identity.of_body(replace(ANT, reward=mine)) is None
    assert identity.of_body(replace(ANT, reward=partial(HOPPER.reward))) is None


@pytest.mark.slow
def test_code_that_is_on_disk_is_taken_without_a_trace(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment, spec = mjx.make(ANT).environment, ANT.spec("mjx", None, True)
    about = identity.of_body(ANT)
    first = lanes.make(environment, spec, 1, about=about).program
    assert first.code.size > 0 and "traced" in first.__dict__
    second = lanes.make(environment, spec, 1, about=about).program
    assert second.code.size == first.code.size and "traced" not in second.__dict__
    # of other sizes it is another program
    other = lanes.make(environment, replace(spec, observation_size=3), 1, about=about).program
    assert other.fingerprint != first.fingerprint
