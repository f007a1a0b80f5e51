"""Videos of a policy while it trains, drawn by a process of its own so that training goes on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from epvf.errors import UserError
from epvf.files import one_line
from epvf.tasks.registry import engines
from epvf.view import opengl
from epvf.view.video import check_ffmpeg

SECONDS = 10.0
"""Of the task's time, at most."""
END_SECONDS = 60.0
"""How long the last video is waited for."""


def check_drawable(task: str, every: int) -> None:
    """Checks that videos can be made here, so that a run does not find out on its way.

    Raises:
        UserError: if nothing here can draw or write them, or `every` is not positive.
    """
    if every < 1:
        raise UserError(f"video-every is {every}, but must be at least 1 iteration")
    check_ffmpeg()
    if "native" in engines(task):
        opengl.chosen()


class Videos:
    """Makes `videos/<iteration>.mp4` in a run every so many iterations.

    One at a time: where the one before is not ready yet, its turn is passed over. What goes wrong
    is told in a line, and training goes on.
    """

    def __init__(self, run: Path, every: int, announce: Callable[[str], None]) -> None:
        self._folder, self._every, self._announce = run / "videos", every, announce
        self._turn: int | None = None
        self._process: subprocess.Popen[str] | None = None
        self._making = Path()

    def __call__(self, iteration: int, save: Callable[[Path], None]) -> None:
        """Begins a video where one is due; `save` writes the policy of now to a file."""
        self._collect()
        turn = iteration // self._every
        if self._turn is None:
            # of a run that goes on, or that has just begun
            self._turn = (iteration - 1) // self._every
        if turn == self._turn or self._process is not None:
            return
        self._turn = turn
        try:
            self._begin(iteration, save)
        except OSError as error:
            self._announce(f"no video of iteration {iteration}: {one_line(error)}")

    def _begin(self, iteration: int, save: Callable[[Path], None]) -> None:
        self._folder.mkdir(exist_ok=True)
        policy = self._folder / f"{iteration:012}.safetensors"
        save(policy)
        self._making = policy.with_suffix(".mp4")
        self._process = subprocess.Popen(
            _command(policy, self._making),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is meant for the training
        )

    def close(self, wait: bool) -> None:
        """Waits for the last video, or gives it up."""
        if self._process is None:
            return
        if wait:
            self._announce(f"waiting for {self._making}")
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                wait = False
        if not wait:
            self._process.kill()
            self._process.wait()
        self._collect()

    def _collect(self) -> None:
        """Tells of a video that is ready."""
        process = self._process
        if process is None or process.poll() is None:
            return
        assert process.stderr is not None
        said = process.stderr.read().strip().splitlines()
        process.stderr.close()
        self._process = None
        self._making.with_suffix(".safetensors").unlink(missing_ok=True)
        if process.returncode == 0:
            self._announce(f"video: {self._making}")
        else:
            reason = said[-1] if said else f"exit code {process.returncode}"
            self._announce(f"no video of {self._making.stem}: {reason[:160]}")


def _command(policy: Path, out: Path) -> list[str]:
    play = ["play", str(policy), "--seconds", f"{SECONDS:g}", "--out", str(out), "--replace"]
    return [sys.executable, "-m", "epvf", *play]
