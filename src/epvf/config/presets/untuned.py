"""`tuned` for tasks that nobody tuned: the presets of their kind, fitted to the task's numbers.

What is fitted is how far ahead a method looks. On the walkers, which are tuned, that is 100 env
steps, for V(s, θ) 200 in the end, and 10 for advantages. Shorter episodes hold less than that;
where env steps are short, 100 of them are no time in which anything happens.
"""

from typing import NamedTuple

from epvf.tasks.base import TaskSpec

STEPS_AHEAD = 100
"""Of the walkers' discount, 1 - 1/100."""

SECONDS_AHEAD = 1.0
"""Least time to look ahead."""

MOST_STEPS = 1000
SHARE = 10
"""Advantages look ahead a tenth as far."""

FURTHER = 2
"""V(s, θ) looks ahead so many times as far in the end, but at most half an episode."""

HORIZON = 32
"""Steps of a policy in an iteration of V(s, θ)."""


class Choice(NamedTuple):
    """A setting that was chosen for a task.

    Attributes:
        field: dotted name.
        value: of it.
    """

    field: str
    value: float | int | str | None


def choices(spec: TaskSpec, method: str, waits: bool = True) -> list[Choice]:
    """What the task says of a method's settings, where that differs from the walkers'.

    Args:
        spec: the task's numbers.
        method: whose settings.
        waits: whether policies can be asked what they see, as V(θ) by what they do needs.
    """
    if method == "epvf" and not (waits or spec.discrete):
        return [Choice("representation.name", "raw")]
    ahead = steps_ahead(spec)
    found = []
    if ahead != STEPS_AHEAD:
        discount = round(1.0 - 1.0 / ahead, 6)
        trace = round(1.0 - 1.0 / max(2.0, ahead / SHARE), 6)
        found += [Choice(f"{group}.discount", discount) for group in ("psvf", "ppo", "sac")]
        found += [Choice(f"{group}.gae_lambda", trace) for group in ("psvf", "ppo")]
    further = min(FURTHER * ahead, spec.episode_length // 2)
    if further <= ahead:
        found.append(Choice("psvf.final_discount", None))
    elif further != FURTHER * STEPS_AHEAD:
        found.append(Choice("psvf.final_discount", round(1.0 - 1.0 / further, 6)))
    if spec.episode_length < HORIZON:
        found.append(Choice("psvf.horizon", spec.episode_length))
    return [choice for choice in found if choice.field.partition(".")[0] == method]


def steps_ahead(spec: TaskSpec) -> int:
    """How many env steps a method should look ahead: at least 2, at most an episode."""
    ahead = STEPS_AHEAD
    if spec.step_seconds is not None and spec.step_seconds > 0.0:
        ahead = max(ahead, min(MOST_STEPS, round(SECONDS_AHEAD / spec.step_seconds)))
    return max(2, min(ahead, spec.episode_length))


def told(spec: TaskSpec, method: str, kind: str, waits: bool = True) -> str:
    """What was chosen, and why, in a line; see `choices`."""
    numbers = f"episodes of at most {spec.episode_length} steps"
    if spec.step_seconds is not None:
        numbers += f" of {spec.step_seconds:g} s"
    reason = f"from {numbers}" if waits else "its policies cannot be asked what they see"
    chosen = [f"{choice.field} {_shown(choice.value)}" for choice in choices(spec, method, waits)]
    fitted = f"; {reason}: {', '.join(chosen)}" if chosen else ""
    return f"nobody tuned task {spec.name!r}: it has the settings of {kind}{fitted}"


def _shown(value: float | int | str | None) -> str:
    if isinstance(value, float | int):
        return f"{value:g}"
    return "none" if value is None else value
