"""How a method looks in every figure: one colour, dash and marker each, ours in front.

Colours are those of Okabe and Ito (2008), which people who are colour-blind tell apart; black and
yellow are left out, since one of them cannot be seen on a dark page and the other on a white one.
There are fewer of them than methods: relatives share a colour and differ in dash and marker.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE, GREY = "#E69F00", "#56B4E9", "#CC79A7", "#666666"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, GREY)
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Style(NamedTuple):
    """How a line is drawn.

    Attributes:
        colour: as #RRGGBB.
        dash: of Matplotlib.
        marker: where something was measured.
        front: whether it lies over the others.
    """

    colour: str
    dash: str = "-"
    marker: str = "o"
    front: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """What Matplotlib calls these."""
        return {
            "color": self.colour,
            "linestyle": self.dash,
            "marker": self.marker,
            "markersize": 4.0,
            "linewidth": 2.0 if self.front else 1.3,
            "zorder": 3.0 if self.front else 2.0,
        }


METHOD_STYLES = {
    "psvf": Style(BLUE, "-", "o", True),
    "epvf": Style(VERMILLION, "-", "s", True),
    "ridge": Style(ORANGE, "-", "D"),
    "ridge-replay": Style(ORANGE, "--", "d"),
    "matched-openes": Style(SKY, "--", "<"),
    "openes": Style(SKY, "-", ">"),
    "pgpe": Style(GREEN, "-", "^"),
    "ars": Style(GREEN, "--", "v"),
    "cmaes": Style(PURPLE, "-", "P"),
    "sepcmaes": Style(PURPLE, "--", "X"),
    "randomsearch": Style(PURPLE, ":", "*"),
    "ppo": Style(GREY, "-", "h"),
    "sac": Style(GREY, "--", "p"),
}


_DIRECTIONS = {
    "matched-es": METHOD_STYLES["matched-openes"],
    "ridge": METHOD_STYLES["ridge"],
    "reference": Style(GREY, ":", "h"),
    "random": METHOD_STYLES["randomsearch"],
}


def of_direction(name: str, method: str) -> Style:
    """The style of a direction that `diagnosis` looks at: of the method that goes along it.

    Args:
        name: of the direction.
        method: whose V is looked at.
    """
    if name.startswith("value"):
        style = of_method(method)
        return style if name == "value" else style._replace(dash="--", marker="D")
    return _DIRECTIONS.get(name, Style(GREEN))


def of_method(method: str) -> Style:
    """The style of a method; of one from elsewhere always the same that its name gives."""
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    number = sum(method.encode())
    return Style(PALETTE[2:][number % 5], "-.", MARKERS[number % len(MARKERS)])


def of_groups(methods: Sequence[str]) -> list[Style]:
    """Styles of lines, given the method of each (empty: unknown).

    Several of a method, beside others, share its colour and differ in dash and marker; where all
    are of one method, colours tell them apart.
    """
    if len(methods) > 1 and len(set(methods)) == 1:
        return [_numbered(number) for number in range(len(methods))]
    styles, seen = [], dict.fromkeys(methods, 0)
    for method in methods:
        style, number = of_method(method), seen[method]
        seen[method] += 1
        if number:
            dash = DASHES[(DASHES.index(style.dash) + number) % len(DASHES)]
            style = style._replace(dash=dash, marker=MARKERS[number % len(MARKERS)])
        styles.append(style)
    return styles


def _numbered(number: int) -> Style:
    colour, turn = number % len(PALETTE), number // len(PALETTE)
    dash = DASHES[turn % len(DASHES)]
    return Style(PALETTE[colour], dash, MARKERS[(colour + turn) % len(MARKERS)])
