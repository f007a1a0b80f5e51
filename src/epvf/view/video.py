"""Pictures to a file: MP4 for players, GIF for pages; the file appears when it is complete."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from epvf.errors import RunFailed, UserError
from epvf.files import one_line

SUFFIXES = (".mp4", ".gif")
GIF_BYTES_PER_SECOND = 300_000
"""At most, so that 10 s are 3 MB."""
GIF_LEAST_BYTES = 300_000
"""Allowed however short it is."""


class _Gif(NamedTuple):
    """How much of the pictures a GIF keeps: share of their width and rate, and colours."""

    size: float
    rate: float
    colours: int


_SMALLER = (
    _Gif(1.0, 1.0, 96),
    _Gif(0.75, 1.0, 64),
    _Gif(0.75, 0.5, 64),
    _Gif(0.5, 0.5, 64),
    _Gif(0.5, 0.5, 32),
    _Gif(0.35, 0.4, 32),
    _Gif(0.25, 0.25, 16),
)
"""Tried one after the other until the file is small."""


def check_out(path: Path) -> None:
    """Checks that a video may be written there, and that there is what writes it.

    Raises:
        UserError: if the suffix, the folder, or an installation is wrong.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"a video's name ends in {' or '.join(SUFFIXES)}, but {path} does not")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: folder {path.parent} is not writable")
    _ffmpeg()


def check_ffmpeg() -> None:
    """Checks that there is what writes videos.

    Raises:
        UserError: if not.
    """
    _ffmpeg()


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """Writes pictures `[h, w, 3]` of one even size, as the suffix says.

    Raises:
        UserError: as `check_out`.
        RunFailed: if it cannot be written.
    """
    check_out(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / "video.mp4"
        gif = path.suffix.lower() == ".gif"
        with _told(path):
            count = _encode(made, pictures, fps, crf=10 if gif else 21)
            if gif:
                made = _small_gif(made, fps, count / fps)
            os.replace(made, path)


def _encode(path: Path, pictures: Iterable[np.ndarray], fps: float, crf: int) -> int:
    """Writes an MP4; returns how many pictures it has."""
    iterator: Iterator[np.ndarray] = iter(pictures)
    first = next(iterator)
    height, width = first.shape[:2]
    rate = Fraction(fps).limit_denominator(1000)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    coded = ["-c:v", "libx264", "-preset", "veryfast", "-crf", str(crf), "-pix_fmt", "yuv420p"]
    command = [*_quiet(), *raw, "-i", "-", "-an", *coded, "-movflags", "+faststart", str(path)]
    complaints = path.with_name("ffmpeg.txt")
    count = 0
    # not imageio-ffmpeg's own writer: it forks, of which JAX warns
    with (
        complaints.open("wb") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdin is not None
        try:
            for picture in chain([first], iterator):
                process.stdin.write(np.ascontiguousarray(picture).data)
                count += 1
            process.stdin.close()
        except BrokenPipeError:
            process.wait()  # it says itself why it has ended
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failed(complaints.read_text(errors="replace"))
    return count


def _small_gif(source: Path, fps: float, seconds: float) -> Path:
    """The largest of a few GIFs that keeps the bound; the smallest if none does."""
    bound = max(GIF_LEAST_BYTES, GIF_BYTES_PER_SECOND * seconds)
    made = source.with_suffix(".gif")
    for way in _SMALLER:
        palette = f"palettegen=max_colors={way.colours}:stats_mode=diff"
        use = "paletteuse=dither=none:diff_mode=rectangle"
        scale = f"scale=trunc(iw*{way.size}/2)*2:-2:flags=area"
        filters = f"fps={_gif_rate(fps * way.rate)},{scale},split[a][b];[a]{palette}[p];[b][p]{use}"
        command = [*_quiet(), "-i", str(source)]
        command += ["-filter_complex", filters, "-loop", "0", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise _failed(done.stderr)
        if made.stat().st_size <= bound:
            break
    return made


def _gif_rate(fps: float) -> Fraction:
    """The nearest rate that a GIF can have: it counts in hundredths of a second."""
    return Fraction(100, max(2, round(100 / fps)))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {one_line(error)}") from error


def _quiet() -> list[str]:
    return [_ffmpeg(), "-y", "-nostdin", "-loglevel", "error"]


def _failed(complaints: str) -> OSError:
    lines = complaints.strip().splitlines()
    return OSError(f"ffmpeg: {lines[-1] if lines else 'failed'}")


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg

        program = str(imageio_ffmpeg.get_ffmpeg_exe())
    except ImportError:
        raise UserError('videos need imageio-ffmpeg: pip install "epvf[video]"') from None
    except RuntimeError as error:
        raise UserError(
            f"imageio-ffmpeg finds no ffmpeg: {one_line(error)}; install ffmpeg, or let "
            "IMAGEIO_FFMPEG_EXE name it"
        ) from None
    if shutil.which(program) is None:
        raise UserError(f"IMAGEIO_FFMPEG_EXE names {program:.80}, which is no program; unset it")
    return program
