"""Files of pictures: whole or not there, and small."""

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest

import epvf
from epvf.errors import RunFailed, UserError
from epvf.view import video


def _pictures(num, height=96, width=128, noise=0):
    rng = np.random.default_rng(0)
    for number in range(num):
        picture = np.full((height, width, 3), 40, np.uint8)
        picture[20:40, 2 * number % width : 2 * number % width + 10] = (250, 120, 0)
        yield picture + rng.integers(0, noise + 1, picture.shape, np.uint8)


def _read(path, height=96, width=128):
    """Pictures of a file, and what ffmpeg says of it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return frames, done.stderr.decode()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".MP4"])
def test_what_is_written_can_be_read(suffix, tmp_path):
    path = tmp_path / f"video{suffix}"
    video.write_video(path, _pictures(40), fps=25)
    frames, told = _read(path)
    assert len(frames) == 40 and " 128x96" in told and " 25 fps" in told
    for number in (0, 30):
        row = frames[number][30].astype(int)
        assert abs(int(np.argmax(row[:, 0] - row[:, 2])) - 2 * number) <= 5
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_a_gif_of_noise_is_kept_small(tmp_path):
    path = tmp_path / "noise.gif"
    video.write_video(path, _pictures(50, 240, 320, noise=90), fps=25)
    assert 50_000 < path.stat().st_size <= 2 * video.GIF_BYTES_PER_SECOND


def test_a_gifs_rate_is_one_that_it_can_have():
    assert [float(video._gif_rate(fps)) for fps in (25, 30, 12.5, 7, 240)] == [
        25.0,
        pytest.approx(100 / 3),
        12.5,
        pytest.approx(100 / 14),
        50.0,
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failure_on_the_way_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f"video{suffix}"
    path.write_text("old")

    def failing():
        yield from _pictures(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write_video(path, failing(), fps=25)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_ffmpeg_that_fails_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: sys.executable)
    with pytest.raises(RunFailed, match=r"cannot write .*video.mp4: ffmpeg: "):
        video.write_video(tmp_path / "video.mp4", _pictures(50), fps=25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("video.avi", "a video's name ends in .mp4 or .gif"),
        ("video", "a video's name ends in .mp4 or .gif"),
        ("nowhere/video.mp4", "there is no folder"),
        ("folder.mp4", "it is a folder"),
    ],
)
def test_where_no_video_can_be_is_refused(name, message, tmp_path, cartpole):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match=message):
        epvf.render(cartpole, tmp_path / name)


def test_without_ffmpeg_one_line_says_how_to_get_it(tmp_path, monkeypatch, cartpole):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(UserError, match=r"finds no ffmpeg: .*IMAGEIO_FFMPEG_EXE"):
        epvf.render(cartpole, tmp_path / "video.mp4")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/nowhere/ffmpeg")
    with pytest.raises(UserError, match=r"names /nowhere/ffmpeg, which is no program; unset it"):
        epvf.render(cartpole, tmp_path / "video.mp4")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r'pip install "epvf\[video\]"'):
        epvf.render(cartpole, tmp_path / "video.mp4")


def test_render_writes_a_video(tmp_path, cartpole):
    path = epvf.render(cartpole, str(tmp_path / "video.gif"), seconds=0.4, width=128, height=96)
    assert path == tmp_path / "video.gif" and len(_read(path)[0]) == 10
