"""Words in pictures: readable on any ground, and never wider than the picture."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8

from epvf.errors import UserError

SHADE = 0.45
"""What is left of the picture's light behind words."""
LINE = 1.35
"""Height of a line, in letters."""


def write(
    picture: UInt8[np.ndarray, "h w 3"], top: Sequence[str], bottom: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with lines at its upper and lower edge, on strips that are dimmed."""
    height, width = picture.shape[:2]
    letter = _letter(height, width)
    font, strip, margin = _font(letter), round(LINE * letter), letter // 2
    shaded = picture.copy()
    lines: list[tuple[int, str]] = []
    for texts, at_top in ((top, True), (bottom, False)):
        depth = strip * len(texts) + margin if texts else 0
        begin = 0 if at_top else height - depth
        part = shaded[begin : begin + depth]
        part[:] = (part * SHADE).astype(np.uint8)
        lines += [(begin + margin // 2 + i * strip, text) for i, text in enumerate(texts)]
    image = _pillow().Image.fromarray(shaded)
    draw = _pillow().ImageDraw.Draw(image)
    for y, text in lines:
        words = _fitting(draw, font, text, width - 2 * margin)
        draw.text((margin, y), words, font=font, fill=(255, 255, 255))
    return np.asarray(image)


def fitted(
    picture: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in another size, with its own proportions, on white."""
    image = _pillow().Image.fromarray(picture)
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    ground = _pillow().Image.new("RGB", (width, height), (255, 255, 255))
    place = (width - size[0]) // 2, (height - size[1]) // 2
    ground.paste(image.resize(size), place)
    return np.asarray(ground)


def _letter(height: int, width: int) -> int:
    """Height of letters in pixels: some 36 of them in a line, or 28 lines in a picture."""
    return max(9, min(height // 26, width // 26))


def _fitting(draw: Any, font: Any, text: str, room: int) -> str:
    """The text, or its beginning and its end where it is too long."""
    if draw.textlength(text, font=font) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
        if draw.textlength(shorter, font=font) <= room:
            return shorter
    return "…"


@cache
def _font(size: int) -> Any:
    """Matplotlib's own, which knows Greek."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return _pillow().ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


@cache
def _pillow() -> Any:
    try:
        import PIL
        from PIL import Image, ImageDraw, ImageFont  # noqa: F401
    except ImportError:
        raise UserError('pictures with words need Pillow: pip install "epvf[video]"') from None
    return PIL
