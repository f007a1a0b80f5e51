"""A run, or several, on one page: what was asked, what came of it, and how to do it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epvf import __version__
from epvf.analysis import landscape, page, value_drawing
from epvf.analysis.curves import AXES, Group, curves, group_runs
from epvf.analysis.drawing import has_records, learning_curves
from epvf.analysis.statistics import summary
from epvf.config.presets import PRESETS, preset
from epvf.config.schema import Config, flatten
from epvf.errors import UserError
from epvf.files import read_json, write_atomically, write_json
from epvf.methods.metrics import PERTURBED, UNPERTURBED
from epvf.methods.registry import METHODS
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.runs.folder import policy_path, read_config, read_info
from epvf.runs.metrics import Record, read_metrics

EVALUATION = "epvf-evaluation/1"
FINAL = 0.1
"""The last part of a run, over which returns of several are averaged."""

_FILLED_IN = ("task.num_threads", "task.backend")
"""Fields that are filled in when a run begins."""


def note_evaluation(run: Path, result: dict[str, Any]) -> None:
    """Keeps an evaluation of the best policy beside the run, for its page."""
    write_json(run / "evaluation.json", {"format": EVALUATION} | result)


def write(runs: Sequence[Path], out: Path, video: Path | None = None) -> Path:
    """Writes the page of a run, or of several; what else lies in their folders is shown too:
    `evaluation.json`, `diagnosis/`, `landscape/`.

    Args:
        runs: their folders.
        out: file to write.
        video: to be shown in it.

    Returns:
        The file.

    Raises:
        UserError: if a folder is no run, none has records yet, or a file in one is damaged.
    """
    known = [run for run in runs if has_records(run)]
    if not known:
        raise UserError(f"{runs[0]} has no records yet: there is nothing to report")
    made = _of_one(known[0], video) if len(runs) == 1 else _of_several(runs, known, video)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, made.encode())
    return out


def changes(config: Config, base: Config) -> list[tuple[str, str, str]]:
    """Fields in which a configuration differs from another: name, value, value there."""
    ours, theirs = flatten(config), flatten(base)
    names = dict.fromkeys([*ours, *theirs])
    return [
        (name, _shown(ours.get(name)), _shown(theirs.get(name)))
        for name in names
        if ours.get(name) != theirs.get(name) and name not in _FILLED_IN
    ]


def _of_one(run: Path, video: Path | None) -> str:
    config, info = read_config(run), read_info(run)
    records = read_metrics(run / "metrics.jsonl")
    best = _best(run)
    name = run.absolute().name
    title = f"{config.task.name}: {config.method.name}"
    told = f"{name}, {info.get('status')}, begun {info.get('started')}"
    (group,) = group_runs([run])
    return page.page(
        f"{title}, {name}",
        [
            page.heading(title, told),
            page.tiles(_numbers(run, records, best)),
            page.section("The policy", page.video(video)),
            page.section("Learning curves", *_curves(group)),
            page.section("What V says", *_value(run, group)),
            page.section("What was asked", *_configuration(config, info)),
            page.section("Model card", _card(run, config, info, records, best)),
            page.section("To do it again", *_again(run, info)),
            page.section("Made with", _provenance(info)),
        ],
    )


def _of_several(runs: Sequence[Path], known: Sequence[Path], video: Path | None) -> str:
    groups = group_runs(known)
    tasks = dict.fromkeys(group.task for group in groups)
    methods = dict.fromkeys(group.method for group in groups)
    title = f"{', '.join(tasks)}: {', '.join(methods)}"
    empty = [run for run in runs if run not in known]
    skipped = f"Without records, and so not shown: {', '.join(map(str, empty))}." if empty else ""
    return page.page(
        title,
        [
            page.heading(title, f"{len(known)} runs"),
            page.section("The policies", page.video(video)),
            page.section(
                "Final return",
                page.table([_final(group) for group in groups], _FINAL_HEADER),
                page.note(
                    f"Mean over the last {FINAL:.0%} of each run and over seeds, with 95 % "
                    "bootstrap intervals over seeds; of fewer than about five seeds they say "
                    "little."
                ),
                page.note(skipped) if skipped else "",
            ),
            page.section(
                "Learning curves",
                page.picture(learning_curves(groups, narrow=True), "curves"),
                page.picture(learning_curves(groups, ("seconds",), narrow=True), "seconds"),
            ),
            page.section("Runs", *(_folded_run(run) for run in known)),
        ],
    )


_FINAL_HEADER = ("runs", "seeds", "env steps", "perturbed", "unperturbed", "best unperturbed")


def _final(group: Group) -> list[str]:
    perturbed, unperturbed = (
        [curve for run in group.runs for curve in curves(run, AXES["env-steps"][0], key)]
        for key in (PERTURBED, UNPERTURBED)
    )
    steps = [records[-1]["steps/env"] for records in group.runs]
    ends = [_interval([_end(curve) for curve in some]) for some in (perturbed, unperturbed)]
    best = _interval([float(np.max(curve.y)) for curve in unperturbed])
    label = group.label or group.method
    return [label, str(len(unperturbed)), f"{np.mean(steps):.4g}", *ends, best]


def _end(curve: Any) -> float:
    late = curve.y[curve.x >= (1.0 - FINAL) * curve.x[-1]]
    return float(late.mean())


def _interval(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    found = summary(np.array(values))
    return "{mean:.2f} ({low:.2f} to {high:.2f})".format(**found)


def _folded_run(run: Path) -> str:
    config, info = read_config(run), read_info(run)
    parts = [*_configuration(config, info), *_again(run, info), _provenance(info)]
    return page.folded(str(run), "\n".join(parts))


def _numbers(run: Path, records: list[Record], best: SavedPolicy | None) -> list[tuple[str, str]]:
    last = records[-1]
    numbers = []
    evaluation = _evaluation(run)
    if evaluation is not None:
        told = "{episode_return:.1f} ± {episode_return_std:.1f}".format(**evaluation)
        numbers.append((f"return of the best policy, {evaluation['episodes']} episodes", told))
    elif best is not None:
        numbers.append(("return of the best policy in training", best.metadata["episode_return"]))
    rates = [r["time/sps"] for r in records if r.get("time/sps")]
    return [
        *numbers,
        ("env steps", f"{last['steps/env']:,}"),
        ("iterations", f"{last['steps/update']:,}"),
        ("seconds of training", f"{last['time/wall']:,.0f}"),
        ("env steps a second (median)", f"{float(np.median(rates)):,.0f}" if rates else "–"),
    ]


def _curves(group: Group) -> list[str]:
    figure = learning_curves([group], narrow=True)
    caption = (
        "Perturbed: mean over the policies that were rolled out to learn from. Unperturbed: the "
        "policy that is kept, with a marker at every evaluation. Bands: 95 % bootstrap intervals "
        "over seeds, where there are several."
    )
    return [page.picture(figure, "curves", caption)]


def _value(run: Path, group: Group) -> list[str]:
    caption = (
        "Rank correlation: how well V ranks the policies of an iteration that it had not seen. "
        "Gains: what V predicted that a step would gain, and what the next evaluation found, "
        "with the noise of evaluations in it."
    )
    parts = [page.picture(value_drawing.gains(group), "gains", caption)]
    if (run / "diagnosis" / "diagnosis.json").is_file():
        found = read_json(run / "diagnosis" / "diagnosis.json")
        rows = [
            [f"{row['distance']:g}", f"{row['spearman']:.3f} ± {row['error']:.3f}"]
            for row in found.get("ranking", [])
        ]
        header = ("distance from θ (in units of the noise)", "V's rank correlation with returns")
        parts.append(page.table(rows, header))
    plane = landscape.read(run / "landscape")
    if plane is not None:
        parts.append(page.picture(value_drawing.landscape(plane), "landscape", _PLANE))
    return parts


_PLANE = (
    "Ground: what V says of policies around θ, on the line that brings it nearest to the true "
    "returns (dots). Hatched: the two part by more than their noise."
)


def _configuration(config: Config, info: dict[str, Any]) -> list[str]:
    name = _preset_of(info)
    whole = [[field, _shown(value)] for field, value in flatten(config).items()]
    everything = page.folded("the whole configuration", page.table(whole))
    try:
        base = preset(config.task.name, name, config.method.name)
    except UserError as error:
        return [page.note(f"Its preset is not known here: {error}"), everything]
    differing = changes(config, base)
    words = " ".join(map(str, info.get("argv", [])))
    if "--backend" in words or "--task.backend" in words:
        differing.append(("task.backend", config.task.backend, base.task.backend))
    header = ("field", "here", f"in preset {name}")
    told = f"Preset {name}" + (", and besides:" if differing else ", with nothing changed.")
    return [page.paragraph(told), page.table(differing, header), everything]


def _preset_of(info: dict[str, Any]) -> str:
    """The preset that the command line named; the default one where it named none."""
    words = [str(word) for word in info.get("argv", [])]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name = word.removeprefix("--preset=") if word.startswith("--preset=") else following
        if word.startswith("--preset") and name in PRESETS:
            return name
    return "tuned"


def _card(
    run: Path,
    config: Config,
    info: dict[str, Any],
    records: list[Record],
    best: SavedPolicy | None,
) -> str:
    seeds = range(config.seed, config.seed + config.num_seeds)
    evaluation = _evaluation(run)
    summary_of_method = METHODS[config.method.name].summary
    rows = [["method", f"{config.method.name}: {summary_of_method}"]]
    if best is not None:
        sizes = " → ".join(map(str, best.policy.layer_sizes))
        rows += [
            [
                "policy",
                f"MLP {sizes}, {best.policy.activation}, output {best.policy.output}; "
                f"{best.policy.num_parameters:,} weights, float32",
            ],
            ["files", f"{policy_path(run, 'best')}, {policy_path(run, 'last').name}"],
        ]
    length = "" if best is None else best.metadata.get("episode_length", "")
    rows += [
        [
            "trained on",
            f"task {config.task.name}, engine {config.task.backend}"
            + (f", episodes of at most {length} env steps" if length else "")
            + f"; {records[-1]['steps/env']:,} env steps a seed",
        ],
        ["seeds", ", ".join(map(str, seeds))],
    ]
    if evaluation is not None:
        told = (
            "{episode_return:.2f} ± {episode_return_std:.2f} (lowest {episode_return_min:.2f}, "
            "highest {episode_return_max:.2f}) over {episodes} episodes on {engine}"
        ).format(**evaluation)
        rows.append(["return", told])
    elif best is not None:
        rows.append(["return", f"{best.metadata['episode_return']} in training"])
    rows.append(["limits", " ".join(_limits(config, evaluation))])
    rows.append(["made by", f"epvf {__version__}, {info.get('ended') or 'not ended yet'}"])
    return page.table(rows)


def _limits(config: Config, evaluation: dict[str, Any] | None) -> list[str]:
    limits = ["Trained and measured in simulation only; nothing is known of real machines."]
    if config.num_seeds < 5:
        limits.append(
            f"Of {config.num_seeds} seed{'s' * (config.num_seeds > 1)}: another seed may do "
            "better or worse."
        )
    limits.append(
        "The best policy is the best of many evaluations, so that its return in training is "
        "biased upwards"
        + ("; the return above is of fresh episodes." if evaluation is not None else ".")
    )
    limits.append("It has not been tried under disturbances, delays or other bodies.")
    return limits


def _again(run: Path, info: dict[str, Any]) -> list[str]:
    words = [str(word) for word in info.get("argv", [])]
    config = run / "config.json"
    task = read_config(run).task.name
    lines = [shlex.join(words)] if words[:1] == ["epvf"] else []
    lines.append(shlex.join(["epvf", "train", task, "--config", str(config)]))
    note = page.note(
        "The second line repeats the run from its own configuration, whatever presets become."
    )
    return [page.commands(lines), note if len(lines) > 1 else ""]


def _provenance(info: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in info.get("versions", {}).items() if v)
    devices = ", ".join(f"{name}: {value}" for name, value in info.get("devices", {}).items())
    git = info.get("git") or {}
    state = f"{git.get('commit')}{', changed since' if git.get('changed') else ''}" if git else "–"
    return page.table([["versions", versions], ["machine", devices], ["source", state]])


def _evaluation(run: Path) -> dict[str, Any] | None:
    file = run / "evaluation.json"
    if not file.is_file():
        return None
    result = read_json(file)
    if result.get("format") != EVALUATION:
        raise UserError(f"{file} has format {result.get('format')!r}, not {EVALUATION!r}")
    return result


def _best(run: Path) -> SavedPolicy | None:
    file = policy_path(run, "best")
    return load_policy(file) if file.is_file() else None


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
