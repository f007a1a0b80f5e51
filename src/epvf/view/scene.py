"""Robots in MuJoCo's scenes: solid or transparent, with a trail, followed by a camera."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from epvf.errors import RunFailed, UserError
from epvf.files import one_line
from epvf.view import opengl

GHOST = (0.35, 0.6, 1.0)
TRAIL = (1.0, 0.45, 0.0, 1.0)
SHADOW_PIXELS = 2048
SLICES = 28
"""Faces around a capsule; fewer show dark specks where the light grazes them."""
SWARM_SLICES = 12
"""Where there are many."""
ROOM = 2000
"""Shapes in a scene beside those of the robots."""
FOLLOWING_SECONDS = 0.2
"""Within these the camera makes up for two thirds of a move."""
HALF_VIEW = 22.5
"""Degrees from the middle of a picture to its upper edge."""


@dataclass(frozen=True)
class Camera:
    """Where the robot is seen from.

    Attributes:
        azimuth: degrees around the vertical; 90 has x to the right.
        elevation: degrees over the horizon, negative from above.
        distance: m from the torso; None: what suits the robot's size.
    """

    azimuth: float = 90.0
    elevation: float = -18.0
    distance: float | None = None


class Pose(NamedTuple):
    """One robot.

    Attributes:
        qpos: `[nq]`.
        opacity: 1: as it is; less: a ghost in one colour.
    """

    qpos: np.ndarray
    opacity: float = 1.0


class Stage:
    """A model, and the OpenGL context to draw it in pictures of one size. Close it."""

    def __init__(
        self, model: mujoco.MjModel, width: int, height: int, most_robots: int, camera: Camera
    ) -> None:
        self._model = _for_pictures(model, width, height, most_robots == 1)
        self._data = mujoco.MjData(self._model)
        self._size = width, height
        self._context = opengl.context(width, height)
        self._drawer = _drawer(self._model)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawer)
        self._scene = mujoco.MjvScene(self._model, most_robots * self._model.ngeom + ROOM)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        # shadows of ghosts are as dark as those of what is solid, and cost as much
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = most_robots == 1
        self._torso = torso_of(self._model)
        self._camera = self._first_camera(camera, width / height, most_robots)

    def torso(self, qpos: Float[np.ndarray, "nq"]) -> Float[np.ndarray, "3"]:
        """Where the torso is (m)."""
        self._place(qpos)
        return np.array(self._data.xpos[self._torso])

    def follow(self, torso: Float[np.ndarray, "3"], seconds: float) -> None:
        """Moves the camera towards the torso, for so long."""
        share = 1.0 - np.exp(-seconds / FOLLOWING_SECONDS)
        # up and down only where the floor leads there, not with every step
        rate = np.array([share, share, 0.1 * share])
        self._camera.lookat[:] += rate * (torso + self._offset - self._camera.lookat)

    def draw(
        self, poses: Sequence[Pose], trail: Sequence[Float[np.ndarray, "3"]] = ()
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of robots; the first of them must be solid."""
        width, height = self._size
        option, nothing = mujoco.MjvOption(), mujoco.MjvPerturb()
        every, moving = mujoco.mjtCatBit.mjCAT_ALL.value, mujoco.mjtCatBit.mjCAT_DYNAMIC.value
        scene = self._scene
        self._context.make_current()
        self._place(poses[0].qpos)
        mujoco.mjv_updateScene(self._model, self._data, option, nothing, self._camera, every, scene)
        for pose in poses[1:]:
            self._place(pose.qpos)
            first = scene.ngeom
            mujoco.mjv_addGeoms(self._model, self._data, option, nothing, moving, scene)
            for geom in scene.geoms[first : scene.ngeom]:
                _make_ghost(geom, pose.opacity)
        for begin, end in zip(trail[:-1], trail[1:], strict=True):
            self._add_line(begin, end)
        rect = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(rect, scene, self._drawer)
        mujoco.mjr_readPixels(pixels, None, rect, self._drawer)
        return pixels[::-1]  # OpenGL begins at the bottom

    def close(self) -> None:
        """Gives the context back."""
        self._context.make_current()
        self._drawer.free()
        self._context.free()

    def _place(self, qpos: Float[np.ndarray, "nq"]) -> None:
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _add_line(self, begin: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> None:
        scene = self._scene
        if scene.ngeom >= scene.maxgeom:
            return
        geom = scene.geoms[scene.ngeom]
        kind = mujoco.mjtGeom.mjGEOM_CAPSULE
        mujoco.mjv_initGeom(
            geom, kind, np.zeros(3), np.zeros(3), np.eye(3).ravel(), np.array(TRAIL, np.float32)
        )
        mujoco.mjv_connector(geom, kind, 0.012 * self._reach, begin, end)
        geom.emission = 0.6
        scene.ngeom += 1

    def _first_camera(self, asked: Camera, aspect: float, robots: int) -> mujoco.MjvCamera:
        self._place(self._model.qpos0)
        middle, self._reach = _extent(self._model, self._data)
        self._offset = middle - self._data.xpos[self._torso]
        camera = mujoco.MjvCamera()
        camera.azimuth, camera.elevation = asked.azimuth, asked.elevation
        # the whole robot in two thirds of the picture, and more around a swarm that parts
        suits = 1.6 * self._reach / np.tan(np.radians(HALF_VIEW)) / min(1.0, aspect)
        camera.distance = asked.distance or suits * (1.0 if robots == 1 else 1.5)
        camera.lookat[:] = middle
        return camera


def _drawer(model: mujoco.MjModel) -> mujoco.MjrContext:
    try:
        return mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    except mujoco.FatalError as error:
        raise RunFailed(f"MuJoCo cannot draw here: {one_line(error)}") from error


def torso_of(model: mujoco.MjModel) -> int:
    """The body named `torso`, or the first one.

    Raises:
        UserError: if the model has no body.
    """
    if model.nbody < 2:
        raise UserError("the task's model has no body to look at")
    named = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY.value, "torso")
    return int(named) if named > 0 else 1


def _for_pictures(model: mujoco.MjModel, width: int, height: int, alone: bool) -> mujoco.MjModel:
    """A copy that is drawn quickly without a GPU, as the original is not to be changed.

    Smoothing edges (`offsamples`) would take as long as all the rest.
    """
    model = copy.deepcopy(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    model.vis.global_.fovy = 2.0 * HALF_VIEW
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = SHADOW_PIXELS
    model.vis.map.shadowclip *= 0.5
    model.vis.quality.numslices = slices = SLICES if alone else SWARM_SLICES
    model.vis.quality.numstacks = slices // 2
    return model


def _extent(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[np.ndarray, float]:
    """The robot's middle `[3]`, and how far its outermost point is from there (m)."""
    moving = model.geom_bodyid > 0
    if not moving.any():
        return np.zeros(3), 1.0
    places, radii = data.geom_xpos[moving], model.geom_rbound[moving]
    middle = (places.min(axis=0) + places.max(axis=0)) / 2.0
    return middle, float((np.linalg.norm(places - middle, axis=1) + radii).max())


def _make_ghost(geom: mujoco.MjvGeom, opacity: float) -> None:
    geom.matid = -1
    geom.rgba[:] = (*GHOST, opacity)
