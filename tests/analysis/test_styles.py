"""One look a method, told apart without colour too."""

from epvf.analysis import styles
from epvf.methods.registry import METHODS


def test_every_method_of_ours_looks_like_no_other():
    known = {name: styles.of_method(name) for name in METHODS.names()}
    assert len({(s.colour, s.dash) for s in known.values()}) == len(known)
    assert len({s.marker for s in known.values()}) == len(known)
    assert {name for name, style in known.items() if style.front} == {"psvf", "epvf"}
    assert known["psvf"].line["zorder"] > known["openes"].line["zorder"]


def test_a_method_from_elsewhere_always_looks_the_same():
    one = styles.of_method("somebodys")
    assert one == styles.of_method("somebodys") and not one.front


def test_several_of_a_method_share_its_colour_beside_others():
    first, other, second = styles.of_groups(["psvf", "ppo", "psvf"])
    assert first == styles.of_method("psvf") and other == styles.of_method("ppo")
    assert second.colour == first.colour and second.dash != first.dash
    alone = styles.of_groups(["psvf"] * 3)
    assert len({style.colour for style in alone}) == 3


def test_colours_differ_in_lightness_or_hue_for_the_colour_blind():
    """Distances in the red-green-blind's view (Viénot et al. 1999), of all pairs."""
    import numpy as np

    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in styles.PALETTE]) / 255.0
    linear = rgb**2.2
    green = (0.29275, 0.70725, 0.0)
    deuteranope = np.array([green, green, (-0.02234, 0.02234, 1.0)])
    seen = np.clip(linear @ deuteranope.T, 0.0, 1.0) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert apart[~np.eye(len(seen), dtype=bool)].min() > 0.12
