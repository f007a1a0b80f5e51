"""`epvf zoo`: many policies, and what V says of them without a simulator."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from epvf.cli import subcommands
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result, table
from epvf.cli.subcommands import Subcommand
from epvf.errors import UserError
from epvf.runtime import startup

if TYPE_CHECKING:
    from epvf.zoo.store import Entry, Zoo

FAR = 2.0
"""Distance from what V has seen, beyond which its ranking is not to be trusted."""

ZOO = Shown("ZOO", positional=True)
KIND = Shown("'SIZES ACTIVATION OUTPUT'", default="all that there are")


@dataclass(frozen=True)
class AddOptions:
    """Add policies to a zoo: of runs, with what their V has learned from, or of files.

    `epvf train --zoo ZOO` adds all that a run rolls out.

    Attributes:
        zoo: folder; made if it is not there.
        what: folders of runs, or policy files of any format.
        task: of files that do not tell theirs.
        episodes: to play each saved policy; 0 takes the file's own word.
        seed: of these episodes.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    what: Annotated[
        tuple[Path, ...],
        Shown(
            "RUN|POLICY_FILE ...", positional=True, missing="which policies? epvf zoo add ZOO RUN"
        ),
    ]
    task: Annotated[str | None, Shown("TASK")] = None
    episodes: int = 0
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class ListOptions:
    """List what a zoo has, a line a shard.

    Attributes:
        zoo: folder.
        task: only of this task.
        architecture: only of this architecture.
        source: only of sources whose names contain this.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    task: Annotated[str | None, Shown("TASK")] = None
    architecture: Annotated[str | None, KIND] = None
    source: Annotated[str | None, Shown("TEXT")] = None
    json: bool = False


@dataclass(frozen=True)
class ShowOptions:
    """Tell what is known of a zoo, or of a shard, and take a policy out of it.

    Attributes:
        zoo: folder.
        shard: beginnings of names, as epvf zoo list tells them; none: the zoo as a whole.
        row: of the policy to take out; best is by its return in the zoo.
        out: policy file to write.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    shard: Annotated[tuple[str, ...], Shown("[SHARD ...]", positional=True)] = ()
    row: Annotated[str, Shown("N|best")] = "best"
    out: Annotated[Path | None, Shown("FILE", default="none")] = None
    json: bool = False


@dataclass(frozen=True)
class MergeOptions:
    """Take over what other zoos have.

    Attributes:
        zoo: folder; made if it is not there.
        others: folders of zoos.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    others: Annotated[
        tuple[Path, ...], Shown("ZOO ...", positional=True, missing="which other zoos?")
    ]
    json: bool = False


@dataclass(frozen=True)
class RankOptions:
    """Rank all policies of a zoo by V alone, and tell how far that is true.

    Attributes:
        zoo: folder.
        value: folder of a run whose V is taken, or a file of epvf zoo fit.
        top: policies to list.
        verify: policies to roll out, evenly spaced over the ranking.
        episodes: of each of these.
        backend: engine of these.
        task: only of this task.
        architecture: only of this architecture.
        source: only of sources whose names contain this.
        seed: of the rollouts.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    value: Annotated[Path | None, Shown("RUN|FILE", missing="whose V? --value")] = None
    top: int = 10
    verify: Annotated[int, Shown("K")] = 0
    episodes: int = 16
    backend: Annotated[str, Shown("NAME")] = "auto"
    task: Annotated[str | None, Shown("TASK")] = None
    architecture: Annotated[str | None, KIND] = None
    source: Annotated[str | None, Shown("TEXT")] = None
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class FitOptions:
    """Learn V from a zoo, without a simulator.

    Attributes:
        zoo: folder.
        out: file to write.
        members: networks, whose differences tell how sure V is.
        representation: what V sees of a policy.
        num_probing_states: at which `probing` asks for actions.
        hidden_sizes: of each network.
        epochs: passes over the policies, at most.
        learning_rate: of Adam.
        most: policies to learn from, of each source as many.
        held_out_source: policies of sources whose names contain this only test V.
        task: only of this task.
        architecture: only of this architecture.
        source: only of sources whose names contain this.
        seed: of everything random here.
        json: print the result as JSON.
    """

    zoo: Annotated[Path, ZOO]
    out: Annotated[Path | None, Shown("FILE", default="value.safetensors in the zoo")] = None
    members: int = 5
    representation: Literal["raw", "probing", "probing+raw", "unf", "unf+raw"] = "probing"
    num_probing_states: int = 64
    hidden_sizes: tuple[int, ...] = (128, 128)
    epochs: int = 60
    learning_rate: float = 1e-3
    most: int = 20_000
    held_out_source: Annotated[str | None, Shown("TEXT")] = None
    task: Annotated[str | None, Shown("TASK")] = None
    architecture: Annotated[str | None, KIND] = None
    source: Annotated[str | None, Shown("TEXT")] = None
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class ImproveOptions:
    """Make a policy better by climbing V, as far as V can be trusted, proved by rollouts.

    What is not better in fresh episodes is not kept.

    Attributes:
        policy: folder of a run (its best policy), or a policy file.
        value: folder of a run whose V is climbed, or a file of epvf zoo fit.
        zoo: from which V is learned first, instead.
        budget: episodes to spend, a quarter of them for the proof.
        method: what searches: V, or evolution strategies with the same episodes.
        out: file to write, if there is something better.
        backend: the engine.
        seed: of everything random here.
        json: print the result as JSON.
    """

    policy: Annotated[Path, Shown("RUN|POLICY_FILE", positional=True)]
    value: Annotated[Path | None, Shown("RUN|FILE")] = None
    zoo: Annotated[Path | None, Shown("ZOO")] = None
    budget: Annotated[int, Shown("EPISODES")] = 1024
    method: Literal["value", "es"] = "value"
    out: Annotated[Path | None, Shown("FILE", default="POLICY-improved.safetensors")] = None
    backend: Annotated[str, Shown("NAME")] = "auto"
    seed: int = 0
    json: bool = False


def run(argv: list[str]) -> int:
    """Does what the second word says; returns the exit code."""
    return subcommands.dispatch("epvf zoo", SUBCOMMANDS, argv)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _add(asked: AddOptions) -> int:
    startup.use_compilation_cache()
    from epvf.zoo.collect import collected
    from epvf.zoo.store import Zoo

    if asked.episodes < 0:
        raise UserError(f"episodes is {asked.episodes}, but must be at least 0")
    # all is read before anything is written
    found = [
        one
        for what in asked.what
        for one in collected(what, asked.task, asked.episodes, asked.seed)
    ]
    zoo = Zoo.create(asked.zoo)
    entries = [zoo.add(policy, rows, origin) for policy, rows, origin in found]
    count = sum(entry.num for entry in entries)
    result = {"zoo": str(asked.zoo), "shards": [e.shard for e in entries], "policies": count}
    print_result(result, f"{count} policies added to {asked.zoo}", asked.json)
    return 0


def _list(asked: ListOptions) -> int:
    zoo, entries = _chosen(asked)
    head = (
        "shard",
        "policies",
        "task",
        "architecture",
        "source",
        "method",
        "update",
        "mean",
        "best",
    )
    rows: list[tuple[str, ...]] = [head]
    for entry in entries:
        origin = entry.origin
        numbers = ["-" if x is None else f"{x:.1f}" for x in (entry.mean_return, entry.best_return)]
        update = "-" if origin.update < 0 else str(origin.update)
        rows.append((
            entry.shard.removesuffix(".safetensors"), f"{entry.num}", origin.task,
            entry.policy.describe(), origin.source, origin.method or "-", update, *numbers,
        ))  # fmt: skip
    count = sum(entry.num for entry in entries)
    listed = [_plain(entry) for entry in entries]
    result = {"zoo": str(zoo.path), "policies": count, "entries": listed}
    print_result(result, f"{table(rows)}\n{count} policies in {len(entries)} shards", asked.json)
    return 0


def _show(asked: ShowOptions) -> int:
    from epvf.zoo import show
    from epvf.zoo.store import Zoo

    zoo = Zoo.open(asked.zoo)
    if asked.out is not None:
        return _take_out(zoo, asked, asked.out)
    if asked.shard:
        shards = [show.shard(zoo, show.shard_of(zoo, name)) for name in asked.shard]
        text = "\n\n".join(_told_shard(one) for one in shards)
        print_result({"zoo": str(zoo.path), "shards": shards}, text, asked.json)
        return 0
    found = show.kinds(zoo.entries())
    rows: list[tuple[str, ...]] = [("task", "architecture", "method", *_COUNTED, "best")]
    for kind in found:
        counts = (f"{kind.policies}", f"{kind.shards}", f"{kind.sources}")
        best = "-" if kind.best_return is None else f"{kind.best_return:.1f}"
        rows.append((kind.task, kind.architecture, kind.method or "-", *counts, best))
    count = sum(kind.policies for kind in found)
    result = {"zoo": str(zoo.path), "policies": count, "kinds": [k._asdict() for k in found]}
    print_result(result, f"{table(rows)}\n{count} policies", asked.json)
    return 0


_COUNTED = ("policies", "shards", "sources")


def _take_out(zoo: "Zoo", asked: ShowOptions, out: Path) -> int:
    """Writes a policy of a shard to a file."""
    from epvf.policies.formats.safetensors import save_policy
    from epvf.zoo import show

    if len(asked.shard) != 1:
        raise UserError("which policy? epvf zoo show ZOO SHARD --row N --out FILE")
    if asked.row != "best" and not asked.row.isdecimal():
        raise UserError(f"row is {asked.row!r:.40}, but must be a number or best")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    entry = show.shard_of(zoo, asked.shard[0])
    row = show.best_row(zoo, entry) if asked.row == "best" else int(asked.row)
    found, origin = show.policy_of(zoo, entry, row), entry.origin
    # what nobody knows is left out
    extra = {
        "backend": origin.engine,
        "method": origin.method,
        "episode_length": origin.episode_length or -1,
        "seed": origin.seed,
        "update": origin.update,
    }
    known = {name: value for name, value in extra.items() if value not in ("", -1)}
    source = {"zoo_shard": entry.shard, "zoo_row": row}
    value = float(found.returns[0])
    save_policy(out, entry.policy, found.thetas[0], origin.task, value, known | source)
    result = {"policy": str(out), "row": row, "return": value, **source}
    text = f"policy: {out} (row {row}, return {value:.2f})"
    print_result(result, text, asked.json)
    return 0


def _told_shard(shard: dict[str, Any]) -> str:
    lines = []
    for name, value in shard.items():
        if isinstance(value, dict):
            told = "mean {mean:.4g}, {min:.4g} to {max:.4g}"
            if value["known"] > 1:
                told += ", quartiles {low:.4g}, {median:.4g}, {high:.4g} ({known} known)"
            value = told.format(**value)
        unknown = value in ("", None, -1) or (name == "episode_length" and value == 0)
        lines.append(f"{name.replace('_', ' '):15} {'not known' if unknown else value}")
    return "\n".join(lines)


def _merge(asked: MergeOptions) -> int:
    from epvf.zoo.store import Zoo

    others = [Zoo.open(path) for path in asked.others]
    for other in others:  # before anything is written
        other.check()
    zoo = Zoo.create(asked.zoo)
    count = sum(zoo.merge(other) for other in others)
    print_result(
        {"zoo": str(asked.zoo), "shards": count}, f"{count} shards added to {asked.zoo}", asked.json
    )
    return 0


def _rank(asked: RankOptions) -> int:
    startup.use_compilation_cache()
    import numpy as np

    from epvf.zoo import rank as ranking
    from epvf.zoo.predictors import load_predictor
    from epvf.zoo.rollouts import Roller
    from epvf.zoo.store import check_alike

    if asked.value is None:
        raise UserError("whose V? epvf zoo rank ZOO --value RUN, or a file of epvf zoo fit")
    for name, least in (("top", 0), ("verify", 0), ("episodes", 1)):
        if getattr(asked, name) < least:
            raise UserError(f"{name} is {getattr(asked, name)}, but must be at least {least}")
    zoo, entries = _chosen(asked)
    check_alike(zoo.path, entries)
    predictor = load_predictor(asked.value)
    ranked = ranking.rank(zoo, entries, predictor)
    count = len(ranked.predicted)
    result: dict[str, Any] = {
        "zoo": str(zoo.path),
        "value": predictor.name,
        "units": predictor.units,
        "policies": count,
        "policies_per_minute": 60.0 * count / max(ranked.seconds, 1e-9),
        "median_distance": float(np.median(ranked.distance)),
        "stored_returns": ranking.agreement(ranked, ranked.returns),
    }
    measured: dict[int, float] = {}
    if asked.verify:
        origin = entries[0].origin
        length = origin.episode_length or None
        roll = Roller(origin.task, predictor.policy, asked.backend, length, asked.seed)
        places, returns = ranking.verify(zoo, entries, ranked, asked.verify, asked.episodes, roll)
        measured = dict(zip(places.tolist(), returns.tolist(), strict=True))
        some = ranked._replace(**{name: getattr(ranked, name)[places] for name in _COLUMNS})
        result["verified"] = ranking.agreement(some, returns)
    result["ranking"] = ranking.table(ranked, entries, asked.top, measured)
    print_result(result, _told_ranking(result), asked.json)
    return 0


_COLUMNS = ("entry", "row", "predicted", "spread", "distance", "neighbour", "ridge", "returns")


def _told_ranking(result: dict[str, Any]) -> str:
    def number(value: Any) -> str:
        return "-" if value is None or value != value else f"{value:.4g}"

    names = ("predicted", "spread", "distance", "return", "verified")
    rows: list[tuple[str, ...]] = [("place", "shard", "row", *names, "source")]
    for one in result["ranking"]:
        shard = one["shard"].removesuffix(".safetensors")
        numbers = [number(one[name]) for name in names]
        rows.append((str(one["place"]), shard, str(one["row"]), *numbers, one["source"]))
    lines = [table(rows), ""]
    for kind, told in (("stored_returns", "returns in the zoo"), ("verified", "fresh rollouts")):
        for name, found in result.get(kind, {}).items():
            if found["spearman"] is None:
                lines.append(f"{name}: {told} or predictions are too few, or all alike")
                continue
            lines.append(
                f"rank correlation of {name} with {told}: {found['spearman']:.3f} "
                f"({found['low']:.3f} to {found['high']:.3f}, {found['policies']} policies)"
            )
    if (distance := result["median_distance"]) > FAR:
        lines.append(
            f"V has not seen such policies: half of them lie more than {distance:.3g} times as far "
            "from those that it has learned from as these from each other"
        )
    speed = result["policies_per_minute"]
    lines.append(f"{result['policies']} policies, {speed:,.0f} a minute; V in {result['units']}s")
    return "\n".join(lines)


def _fit(asked: FitOptions) -> int:
    startup.use_compilation_cache()
    from epvf.training.offline import OfflineConfig
    from epvf.zoo import fit
    from epvf.zoo.store import check_alike

    zoo, entries = _chosen(asked)
    check_alike(zoo.path, entries)
    if asked.most < 1:
        raise UserError(f"most is {asked.most}, but must be at least 1")
    config = OfflineConfig(
        members=asked.members,
        representation=asked.representation,
        num_probing_states=asked.num_probing_states,
        hidden_sizes=asked.hidden_sizes,
        epochs=asked.epochs,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
    )
    out = asked.out or zoo.path / "value.safetensors"
    if asked.out is not None and not out.parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    result = fit.fit(zoo, entries, config, asked.most, asked.held_out_source, out)
    print_result(result, fit.told(result), asked.json)
    return 0


def _improve(asked: ImproveOptions) -> int:
    startup.use_compilation_cache()
    from epvf.zoo import improve
    from epvf.zoo.rollouts import Roller

    if (asked.value is None) == (asked.zoo is None):
        raise UserError("give either --value RUN|FILE or --zoo ZOO, whose V is to be climbed")
    path, saved = _policy(asked.policy)
    out = asked.out or path.with_name(f"{path.stem}-improved.safetensors")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    told = saved.metadata.get("episode_length", "")
    length = int(told) if told.isdigit() else None
    roll = Roller(saved.task, saved.policy, asked.backend, length, asked.seed)
    predictor = _predictor(asked, saved)
    predictor.check(saved.task, saved.policy, f"{path}")
    if asked.method == "es":
        scale = improve.noise_scale(predictor, saved.theta)
        found = improve.evolve(scale, saved.theta, roll, asked.budget, asked.seed)
    else:
        found = improve.climb(predictor, saved.theta, roll, asked.budget, _say)
    result = {
        "policy": str(path), "method": asked.method, "better": found.better,
        "before": found.before, "after": found.after, "gain_low": found.low,
        "gain_high": found.high, "episodes": roll.episodes, "out": None,
        "rounds": [one._asdict() for one in found.rounds],
    }  # fmt: skip
    if found.better:
        _save(out, saved, found, path)
        result["out"] = str(out)
    print_result(result, _told_improvement(result), asked.json)
    return 0


def _told_improvement(result: dict[str, Any]) -> str:
    if result["better"]:
        return (
            f"better: {result['before']:.2f} -> {result['after']:.2f} (gain "
            f"{result['gain_low']:.2f} to {result['gain_high']:.2f}), {result['episodes']} "
            f"episodes: {result['out']}"
        )
    return (
        f"nothing better was found in {result['episodes']} episodes: the policy stays at "
        f"{result['before']:.2f} (the best candidate had {result['after']:.2f})"
    )


def _predictor(asked: ImproveOptions, saved: Any) -> Any:
    from epvf.training.offline import OfflineConfig
    from epvf.zoo import fit
    from epvf.zoo.predictors import load_predictor
    from epvf.zoo.store import Zoo, select

    if asked.value is not None:
        return load_predictor(asked.value)
    assert asked.zoo is not None
    zoo = Zoo.open(asked.zoo)
    entries = select(zoo.entries(), saved.task, saved.policy.describe())
    if not entries:
        raise UserError(
            f"zoo {asked.zoo} has no policies {saved.policy.describe()} of task {saved.task!r}"
        )
    return fit.learned(zoo, entries, OfflineConfig(seed=asked.seed), fit.MOST)


def _policy(what: Path) -> tuple[Path, Any]:
    from epvf.policies.formats.registry import load_policy
    from epvf.runs.folder import policy_path, read_config

    if what.is_dir():
        read_config(what)
        what = policy_path(what, "best")
    saved = load_policy(what)
    if not saved.task:
        raise UserError(f"{what} does not tell its task: epvf policy import FILE --task TASK")
    return what, saved


def _save(out: Path, saved: Any, found: Any, path: Path) -> None:
    from epvf.policies.formats.safetensors import save_policy

    extra = saved.metadata | {"improved_from": str(path)}
    save_policy(out, saved.policy, found.theta, saved.task, found.after, extra)


def _chosen(asked: Any) -> "tuple[Zoo, list[Entry]]":
    from epvf.zoo.store import Zoo, select

    zoo = Zoo.open(asked.zoo)
    return zoo, select(zoo.entries(), asked.task, asked.architecture, asked.source)


def _plain(entry: "Entry") -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(entry.line())
    return found


SUBCOMMANDS = {
    "add": Subcommand(AddOptions, _add),
    "list": Subcommand(ListOptions, _list),
    "show": Subcommand(ShowOptions, _show),
    "merge": Subcommand(MergeOptions, _merge),
    "rank": Subcommand(RankOptions, _rank),
    "fit": Subcommand(FitOptions, _fit),
    "improve": Subcommand(ImproveOptions, _improve),
}
