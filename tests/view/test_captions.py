"""Words in pictures."""

import numpy as np
import pytest

from epvf.view import captions


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 96), (640, 480), (1280, 300)])
def test_words_are_readable_and_stay_in_their_strips(width, height):
    picture = np.full((height, width, 3), 200, np.uint8)
    written = captions.write(picture, ["θ ± 1"], ["return 1.0", "16 perturbed: return 2.0 ± 1"])
    rows = np.nonzero((written != picture).any(axis=(1, 2)))[0]
    middle = np.setdiff1d(np.arange(height), rows)
    assert len(middle) > 0.15 * height and (np.diff(middle) == 1).all()
    assert written.max() == 255 and written[rows].min() < 120
    assert (picture == 200).all()


def test_words_that_are_too_long_are_cut_in_their_middle():
    picture = np.zeros((96, 128, 3), np.uint8)
    written = captions.write(picture, ["a very long name " * 10], [])
    assert written[:, :-3].max() == 255 and written[:, -3:].max() == 0


def test_a_picture_keeps_its_proportions():
    picture = np.zeros((40, 60, 3), np.uint8)
    fitted = captions.fitted(picture, 128, 128)
    dark = np.nonzero(fitted[:, 64, 0] < 128)[0]
    assert fitted.shape == (128, 128, 3) and abs(len(dark) - 128 * 40 / 60) <= 2
