"""A page in a browser: a policy and the swarm around it, live, coloured by V or by true return."""

import io
import socket
import time
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from epvf.config.schema import check_seed
from epvf.errors import UserError
from epvf.files import one_line
from epvf.tasks import make
from epvf.tasks.base import check_policy
from epvf.tasks.body import Body
from epvf.tasks.registry import body_behind
from epvf.tasks.starts import commanded
from epvf.view.choices import BEST, NEWEST, Choices
from epvf.view.gate import Gate
from epvf.view.scene import torso_of
from epvf.view.troupe import Troupe

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FPS = 30.0
LOOK_SECONDS = 2.0
"""How often a run that trains is looked at."""
END_SECONDS = 1.0
"""How long the end of an episode is shown."""
MOST_PERTURBED = 64
ORANGE = (213, 94, 0)
"""Of θ itself; the swarm has colours by value."""
BY_VALUE, BY_RETURN = "V's prediction", "true return so far"
FEW_VERTICES, CELLS = 200, 12
"""A body's mesh of more vertices is made coarser: to so many cells on its longest side."""
CELL = 1.0
"""Side of the floor's squares (m)."""


@dataclass(frozen=True)
class Settings:
    """What the page is like.

    Attributes:
        perturbed: policies around θ.
        host: interface to listen at; any other than the loopback one gets a token.
        port: of it.
        seed: of where episodes start, and of the perturbations.
        command: that episodes are asked for; empty: as they have it.
    """

    perturbed: int = 16
    host: str = "127.0.0.1"
    port: int = 8080
    seed: int = 0
    command: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.perturbed <= MOST_PERTURBED:
            raise UserError(f"perturbed is {self.perturbed}, but must be 0 to {MOST_PERTURBED}")
        if not 1 <= self.port <= 65535:
            raise UserError(f"port is {self.port}, but must be 1 to 65535")
        check_seed(self.seed)


class Page:
    """The page. Close it, or use it in a `with`.

    Attributes:
        address: where it is.
    """

    def __init__(self, choices: Choices, settings: Settings) -> None:
        self._choices, self._settings = choices, settings
        saved = choices.actor.saved
        self._body = _body_of(saved.task, settings.command)
        length = saved.metadata.get("episode_length", "")
        task: Any = make(
            saved.task, backend="native", episode_length=int(length) if length.isdigit() else None
        )
        check_policy(task.spec, saved.policy)
        self._most = task.spec.episode_length
        viser = _viser()
        _ = (
            choices.value
        )  # which takes seconds: before the address is open, so that no page is half
        outside = settings.host not in LOOPBACK
        inner = _free_port() if outside else settings.port
        if not outside:
            _check_port(settings.port)
        with redirect_stdout(io.StringIO()):  # of its own address, which may be another
            self._server = viser.ViserServer("127.0.0.1", inner, label="epvf", verbose=False)
        self._gate: Gate | None = None
        try:
            if outside:
                self._gate = Gate(settings.host, settings.port, inner)
            self._build()
        except BaseException:
            self.close()
            raise
        query = "" if self._gate is None else f"?token={self._gate.token}"
        self.address = f"http://{settings.host}:{settings.port}/{query}"

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server."""
        if self._gate is not None:
            self._gate.close()
        self._server.stop()

    def play(self, seconds: float | None = None) -> None:
        """Serves the page, for so long or until it is interrupted."""
        begin = before = time.monotonic()
        looked = -np.inf
        while seconds is None or time.monotonic() - begin < seconds:
            now = time.monotonic()
            if now - looked > LOOK_SECONDS:
                looked = now
                self._look_for_news()
            if self._changed:
                self._restart()
            # where nobody looks nothing has to move
            self._pass(now - before if self._server.get_clients() else 0.0)
            before = now
            time.sleep(max(0.0, 1.0 / FPS - (time.monotonic() - now)))

    def _build(self) -> None:
        """The controls, and what does not move."""
        gui, scene = self._server.gui, self._server.scene
        gui.configure_theme(control_layout="collapsible", show_share_button=False)
        gui.add_markdown(f"**{self._choices.actor.saved.task}**: {self._choices.actor.name}")
        self._told = gui.add_markdown("")
        names = self._choices.names()
        self._chosen = gui.add_dropdown("policy", names, hint="of which update")
        self._by = gui.add_dropdown("colours", [BY_RETURN])
        if self._choices.value is not None:
            self._by.options = [BY_VALUE, BY_RETURN]
            self._by.value = BY_VALUE
        self._swarm = gui.add_slider("perturbed", 0, MOST_PERTURBED, 1, self._settings.perturbed)
        self._uphill = gui.add_slider(
            "step along ∇V", -4.0, 4.0, 0.1, 0.0, hint="1: where V is highest on this line"
        )
        self._uphill.disabled = self._choices.value is None
        self._playing = gui.add_checkbox("play", True)
        self._speed = gui.add_slider("speed", 0.1, 3.0, 0.1, 1.0, hint="of the task's own time")
        again = gui.add_button("from the start")
        self._scale = gui.add_markdown("")
        for control in (self._chosen, self._swarm, self._uphill):
            control.on_update(self._change)
        again.on_click(self._change)
        self._floor = scene.add_grid(
            "/floor", 40.0, 40.0, plane="xy", cell_size=CELL, section_size=5.0 * CELL,
            plane_color=(225, 228, 232), plane_opacity=1.0, fade_distance=30.0,
        )  # fmt: skip
        self._stamp, self._changed, self._live = self._choices.stamp(), True, False
        self._meshes: list[tuple[int, Any]] = []
        self._shapes, self._drawn = _shapes(self._body), 0
        camera = self._server.initial_camera
        camera.position, camera.look_at = (0.0, -4.5, 1.8), (0.0, 0.0, 0.3)
        camera.up = (0.0, 0.0, 1.0)

    def _change(self, event: object) -> None:
        self._changed = True

    def _look_for_news(self) -> None:
        """What a run has written since; its newest policy is shown where that is chosen."""
        self._live = self._choices.live
        stamp = self._choices.stamp()
        if stamp == self._stamp:
            return
        self._stamp, chosen = stamp, self._chosen.value
        with suppress(UserError):  # what is being written is there next time
            names = self._choices.names()
            if list(self._chosen.options) != names:
                self._chosen.options = names
                self._chosen.value = chosen if chosen in names else NEWEST
        if chosen in (NEWEST, BEST):
            self._changed = True

    def _restart(self) -> None:
        """The chosen policies, from the start of an episode."""
        self._changed = False
        try:
            theta = self._choices.theta(self._chosen.value)
        except UserError as error:
            self._told.content = str(error)
            return
        theta = theta + self._choices.uphill(self._uphill.value)
        number, seed = int(self._swarm.value), self._settings.seed
        around = self._choices.perturbed(theta, number, seed)
        thetas = np.concatenate([theta[None].astype(np.float32), around])
        self._predicted = self._choices.predicted(thetas)
        policy = self._choices.actor.saved.policy
        self._troupe = Troupe(self._body, policy, list(thetas), seed, self._most)
        self._over_since: float | None = None
        self._draw_robots(len(thetas))

    def _draw_robots(self, number: int) -> None:
        """Their shapes, one mesh a body for all of them."""
        if number == self._drawn:
            return
        self._drawn = number
        for _, mesh in self._meshes:
            mesh.remove()
        places, orientations = self._troupe.places()
        self._shown = colours = self._colours()
        self._meshes = [
            (
                body,
                self._server.scene.add_batched_meshes_simple(
                    f"/robots/{body}",
                    vertices,
                    faces,
                    batched_wxyzs=orientations[:, body],
                    batched_positions=places[:, body],
                    batched_colors=colours,
                    lod="off",
                ),
            )
            for body, vertices, faces in self._shapes
        ]

    def _pass(self, seconds: float) -> None:
        """Lets so much time pass, and shows what is then."""
        troupe = self._troupe
        if not seconds:
            return
        if self._playing.value and not troupe.over:
            # where drawing is slow, slower rather than in jumps
            troupe.advance(min(seconds, 4.0 / FPS) * float(self._speed.value))
        if self._playing.value and troupe.over:
            self._over_since = self._over_since or time.monotonic()
            self._changed |= time.monotonic() - self._over_since > END_SECONDS
        positions, orientations = troupe.places()
        here = positions[0, torso_of(self._body.model())] * np.array([1.0, 1.0, 0.0])
        with self._server.atomic():
            colours = self._colours()
            for body, mesh in self._meshes:
                mesh.batched_positions = (positions[:, body] - here).astype(np.float32)
                mesh.batched_wxyzs = orientations[:, body].astype(np.float32)
                if (colours != self._shown).any():
                    mesh.batched_colors = colours
            self._shown = colours
            # the floor moves under a robot that stays where the camera looks
            self._floor.position = tuple(-(here % (5.0 * CELL)))
        self._tell()

    def _values(self) -> Float[np.ndarray, "N"]:
        """What colours stand for."""
        if self._by.value == BY_VALUE and self._predicted is not None:
            return np.asarray(self._predicted, np.float64)
        return self._troupe.returns

    def _colours(self) -> UInt8[np.ndarray, "N 3"]:
        from matplotlib import colormaps

        values = self._values()
        low, high = _ends(values)
        share = np.nan_to_num((values - low) / max(high - low, 1e-12))
        colours = colormaps["viridis"](share)[:, :3]
        colours[0] = np.array(ORANGE) / 255
        return _linear(colours)

    def _tell(self) -> None:
        returns = self._troupe.returns
        lines = [f"{self._troupe.seconds:.1f} s, return of θ (orange) {returns[0]:.1f}"]
        if len(returns) > 1:
            lines.append(f"{len(returns) - 1} perturbed: {np.nanmean(returns[1:]):.1f}")
        if self._predicted is not None:
            value = self._choices.value
            assert value is not None
            lines.append(f"V of θ: {self._predicted[0]:.6g} ({value.units})")
        if self._live:
            lines.append("the run is training")
        told = "  \n".join(lines)
        if told != self._told.content:
            self._told.content = told
        low, high = _ends(self._values())
        scale = f"dark {low:.4g}, light {high:.4g}: {self._by.value}"
        if scale != self._scale.content:
            self._scale.content = scale


def _linear(colours: Float[np.ndarray, "N 3"]) -> UInt8[np.ndarray, "N 3"]:
    """Colours of sRGB (IEC 61966-2-1) as viser takes those of many meshes: in linear light."""
    bright = ((colours + 0.055) / 1.055) ** 2.4
    linear = np.where(colours <= 0.04045, colours / 12.92, bright)
    return np.asarray(np.round(255 * linear), np.uint8)


def _ends(values: Float[np.ndarray, "N"]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def _shapes(body: Body) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Of each body that moves its number, vertices and faces."""
    conversions = _imported("mjviser.conversions")
    model = body.model()
    shapes = []
    for number in range(1, model.nbody):
        geoms = [g for g in np.flatnonzero(model.geom_bodyid == number) if model.geom_group[g] < 3]
        if geoms:
            mesh = conversions.merge_geoms(model, [int(g) for g in geoms])
            shapes.append((number, *_coarse(np.asarray(mesh.vertices), np.asarray(mesh.faces))))
    return shapes


def _coarse(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh on fewer vertices, those of a cell in one: of capsules it has thousands, and many
    robots of them are slow without a GPU."""
    if len(vertices) <= FEW_VERTICES:
        return vertices, faces
    size = float(np.ptp(vertices, axis=0).max()) / CELLS
    _, first, cell = np.unique(
        np.round(vertices / size), axis=0, return_index=True, return_inverse=True
    )
    faces = cell.reshape(-1)[faces]
    a, b, c = faces.T
    return vertices[first], faces[(a != b) & (b != c) & (c != a)]


def _body_of(task: str, command: tuple[float, ...]) -> Body:
    body = body_behind(task)
    if body is None:
        raise UserError(f"task {task!r} cannot be viewed: it is no body on MuJoCo; try epvf play")
    return commanded(body, command) if command else body


def _viser() -> Any:
    _imported("mjviser.conversions")
    return _imported("viser")


def _imported(module: str) -> Any:
    import warnings
    from importlib import import_module

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            return import_module(module)
    except ImportError as error:
        raise UserError(
            f'viewing needs more ({one_line(error)}): pip install "epvf[viewer]"'
        ) from None


def _check_port(port: int) -> None:
    """viser would take the next one that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {one_line(error)}; give --port") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
