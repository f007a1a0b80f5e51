"""Videos while a policy trains."""

import sys
import time

import pytest

from epvf.errors import UserError
from epvf.policies.formats.safetensors import save_policy
from epvf.view import meanwhile
from epvf.view.meanwhile import Videos, check_drawable


class Said(list):
    def __call__(self, message):
        self.append(message)


def _fake(monkeypatch, code):
    """Python runs this in the place of the video's command."""
    monkeypatch.setattr(meanwhile, "_command", lambda policy, out: [sys.executable, "-c", code])


def _wait(videos):
    deadline = time.monotonic() + 20.0
    while videos._process is not None and videos._process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_video_is_begun_every_so_many_iterations_one_at_a_time(tmp_path, monkeypatch):
    _fake(monkeypatch, "import sys; sys.stdin.read()")
    said = Said()
    saved: list[str] = []

    def save(path):
        saved.append(path.stem)
        path.touch()

    videos = Videos(tmp_path, 10, said)
    for iteration in range(1, 35):
        videos(iteration, save)
        if iteration == 10:
            _wait(videos)
        if iteration == 15:
            _fake(monkeypatch, "import time; time.sleep(30)")
    videos.close(wait=False)
    assert saved == ["000000000010", "000000000020"]
    assert said[0] == f"video: {tmp_path / 'videos' / '000000000010.mp4'}"
    assert said[1] == "no video of 000000000020: exit code -9"
    assert list((tmp_path / "videos").iterdir()) == []


def test_what_goes_wrong_is_told_in_a_line(tmp_path, monkeypatch):
    _fake(monkeypatch, "import sys; sys.exit('first\\nepvf: error: no renderer')")
    said = Said()
    videos = Videos(tmp_path, 1, said)
    videos(5, lambda path: path.touch())
    videos.close(wait=True)
    assert said[-1] == "no video of 000000000005: epvf: error: no renderer"


def test_where_nothing_can_be_drawn_a_run_does_not_begin(monkeypatch):
    with pytest.raises(UserError, match="video-every is 0, but must be at least 1"):
        check_drawable("ant", 0)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="videos need imageio-ffmpeg"):
        check_drawable("ant", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("renderer")
def test_a_real_one(tmp_path, hopper):
    said = Said()
    videos = Videos(tmp_path, 3, said)
    save = lambda path: save_policy(path, hopper.policy, hopper.theta, "hopper", 0.0)  # noqa: E731
    for iteration in (1, 2, 3):
        videos(iteration, save)
    videos.close(wait=True)
    (made,) = (tmp_path / "videos").iterdir()
    assert made.name == "000000000003.mp4" and made.stat().st_size > 5000
    assert said[-1] == f"video: {made}"
