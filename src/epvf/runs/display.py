"""What a person sees of a run: live on a terminal, plain lines anywhere else. All on stderr."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO, TypeAlias, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from epvf.config.schema import Config
from epvf.errors import printable
from epvf.methods.metrics import ENDED, PERTURBED, UNPERTURBED
from epvf.methods.registry import METHODS
from epvf.training.state import Record, Report, TrainState

Extra: TypeAlias = Callable[[float], dict[str, str]]
"""More to show, by name, given the fraction of the run that is done."""

Below: TypeAlias = Callable[[], RenderableType]
"""What stands below a run's own numbers."""

LINE_SECONDS = 2.0
"""How often at most a plain line is printed, the first and the last aside."""

CURVE_WIDTH = 24
"""Characters of a small curve."""
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-~=+*#"
"""On a terminal that has no others."""


class Display(Protocol):
    """Shows the progress of a run."""

    def announce(self, message: str) -> None:
        """Tells of something that takes a while or happens once."""
        ...

    def introduce(self, facts: Mapping[str, str]) -> None:
        """Tells what is going to run: names and values."""
        ...

    def showing(self, config: Config, state: TrainState | None) -> AbstractContextManager[None]:
        """Shows progress while the block runs; `state` is where the run goes on."""
        ...

    def update(self, report: Report) -> None:
        """Shows the newest report."""
        ...


def _nothing(progress: float) -> dict[str, str]:
    return {}


def make_display(
    stream: TextIO | None = None, extra: Extra = _nothing, below: Below | None = None
) -> Display:
    """A live display where the stream (stderr) is a terminal, plain lines otherwise.

    Args:
        stream: to write to; None: stderr.
        extra: more to show.
        below: what a live display shows beneath.
    """
    quiet = Quiet(sys.stderr if stream is None else stream)
    return LiveDisplay(quiet, extra, below) if quiet.isatty() else PlainDisplay(quiet, extra)


class Quiet:
    """A stream that goes silent once nobody reads it any more: training goes on.

    That is a pipe whose reader has ended, a terminal that was closed, or no stream at all.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        try:
            return 0 if self._stream is None else self._stream.write(text)
        except (OSError, ValueError):
            self._stream = None
            return 0

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()


class PlainDisplay:
    """One line every few seconds, with a prefix where several runs share a stream."""

    def __init__(
        self,
        stream: TextIO | Quiet,
        extra: Extra = _nothing,
        prefix: str = "",
        every: float = LINE_SECONDS,
    ) -> None:
        self._stream = stream
        self._extra = extra
        self._prefix = prefix
        self._every = every
        self._printed = -math.inf
        self._pending: str | None = None

    def announce(self, message: str) -> None:
        # in one piece, or the lines of several processes would mix
        self._stream.write(f"{self._prefix}{printable(message)}\n")
        self._stream.flush()

    def introduce(self, facts: Mapping[str, str]) -> None:
        self.announce("  ".join(f"{name} {value}" for name, value in facts.items()))

    @contextmanager
    def showing(self, config: Config, state: TrainState | None) -> Iterator[None]:
        self._facts = _Facts(config, state, self._extra)
        try:
            yield
        finally:
            self._flush()

    def update(self, report: Report) -> None:
        facts = self._facts.update(report)
        self._pending = "  ".join(f"{name} {value}" for name, value in facts.items())
        if time.monotonic() - self._printed >= self._every:
            self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            self.announce(self._pending)
            self._pending, self._printed = None, time.monotonic()


class LiveDisplay:
    """A bar and the newest numbers, redrawn in place; messages scroll by above."""

    def __init__(
        self, stream: TextIO | Quiet, extra: Extra = _nothing, below: Below | None = None
    ) -> None:
        self._extra, self._below = extra, below
        self._console = Console(file=cast(TextIO, stream), highlight=False)
        self._live: Live | None = None

    def announce(self, message: str) -> None:
        self._console.print(Text(printable(message), style="dim"))

    def introduce(self, facts: Mapping[str, str]) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            table.add_row(Text(name, style="dim"), Text(value))
        self._console.print(table)

    @contextmanager
    def showing(self, config: Config, state: TrainState | None) -> Iterator[None]:
        self._facts = _Facts(config, state, self._extra)
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield

    def update(self, report: Report) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right")
        shown = self._facts.update(report)
        for name, value in shown.items():
            curve = self._facts.curve(name, self._bars)
            table.add_row(Text(name, style="dim"), value, Text(curve, style="cyan"))
        both = Table.grid()
        both.add_row(ProgressBar(total=1.0, completed=self._facts.progress))
        both.add_row(table)
        if self._below is not None:
            both.add_row(self._below())
        if self._live is not None:
            self._live.update(both, refresh=True)

    @property
    def _bars(self) -> str:
        return BARS if self._console.encoding.lower().startswith("utf") else PLAIN_BARS


class _Trace:
    """A quantity over the run so far, in at most so many values as a small curve has characters."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._sum, self._count, self._each = 0.0, 0, 1

    def add(self, value: float) -> None:
        """One more; where there are too many, neighbours become their mean."""
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count < self._each:
            return
        self._values.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._values) == CURVE_WIDTH:
            pairs = zip(self._values[::2], self._values[1::2], strict=True)
            self._values = [(one + other) / 2 for one, other in pairs]
            self._each *= 2

    def drawn(self, bars: str) -> str:
        """As bars; nothing where it has not moved yet."""
        if len(self._values) < 2:
            return ""
        low, high = min(self._values), max(self._values)
        scale = (len(bars) - 1) / max(high - low, 1e-30)
        return "".join(bars[round((value - low) * scale)] for value in self._values)


class _Facts:
    """The newest numbers of a run in words, averaged over its seeds, and how much is left."""

    def __init__(self, config: Config, state: TrainState | None, extra: Extra) -> None:
        self._config = config
        self._extra = extra
        self._newest: dict[str, float] = {}
        self._first: tuple[float, float] | None = None
        self._best = -math.inf
        self._traces = {name: _Trace() for name in (PERTURBED, UNPERTURBED)}
        self.progress = 0.0 if state is None else _progress(config, state)

    def update(self, report: Report) -> dict[str, str]:
        """Names and values to show, in order."""
        config = self._config
        self.progress = _progress(config, report.state)
        self._remember(report.records)
        shown = {
            label: render(self._newest[name])
            for label, (name, render) in _columns(config).items()
            if name in self._newest
        }
        if self._newest.get(ENDED) == 0.0:
            shown["perturbed return"] += " (no episode has ended yet)"
        if self._best > -math.inf:
            shown["best"] = f"{self._best:.2f}"
        state, total = report.state, config.env_steps
        iteration = str(state.iteration)
        # The total is told of what ends the run first, as far as can be seen.
        if total is not None and _by_env_steps(config, state) > _by_iterations(config, state):
            shown["env steps"] += f"/{count(total)}"
        else:
            iteration += f"/{config.iterations}"
        own = {"iteration": iteration} | shown | {"left": self._left()}
        return own | self._extra(self.progress)

    def curve(self, label: str, bars: str) -> str:
        """The course of a return so far, drawn small; of anything else nothing."""
        name, _ = _columns(self._config).get(label, ("", ""))
        return self._traces[name].drawn(bars) if name in self._traces else ""

    def _remember(self, records: list[Record]) -> None:
        for name, value in _mean_over_seeds(records).items():
            if math.isfinite(value):
                # Not every iteration measures everything: the last value known stays.
                self._newest[name] = value
        for record in records:
            for name, trace in self._traces.items():
                value = record.get(name, math.nan)
                if math.isfinite(value) and not (name == PERTURBED and record.get(ENDED) == 0.0):
                    trace.add(value)
            evaluated = record.get(UNPERTURBED, math.nan)
            self._best = max(self._best, evaluated if math.isfinite(evaluated) else -math.inf)

    def _left(self) -> str:
        now = time.monotonic()
        if self._first is None:
            # Compilation came before the first report, so its time tells nothing of the rest.
            self._first = (now, self.progress)
        begin, progress = self._first
        if self.progress == progress:
            return "?"
        return clock((now - begin) * (1.0 - self.progress) / (self.progress - progress))


def clock(seconds: float) -> str:
    """A duration as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _progress(config: Config, state: TrainState) -> float:
    """Fraction of the iterations or env steps done, whichever ends the run first."""
    return min(max(_by_iterations(config, state), _by_env_steps(config, state)), 1.0)


def _by_iterations(config: Config, state: TrainState) -> float:
    return state.iteration / config.iterations


def _by_env_steps(config: Config, state: TrainState) -> float:
    return 0.0 if config.env_steps is None else float(state.env_steps.min()) / config.env_steps


def _mean_over_seeds(records: list[Record]) -> dict[str, float]:
    last = [r for r in records if r["steps/update"] == records[-1]["steps/update"]]
    return {name: sum(r[name] for r in last) / len(last) for name in last[0]}


def count(value: float) -> str:
    """A number of steps, short: 50M."""
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= divisor:
            return f"{value / divisor:.4g}{unit}"
    return f"{value:.0f}"


def _columns(config: Config) -> dict[str, tuple[str, Callable[[float], str]]]:
    """What is shown of a record, by label."""
    searches = METHODS[config.method.name].build is not None
    return _COLUMNS if searches else _AGENT_COLUMNS


_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "env steps": ("steps/env", count),
    "steps/s": ("time/sps", count),
    "perturbed return": (PERTURBED, "{:.2f}".format),
    "unperturbed return": (UNPERTURBED, "{:.2f}".format),
    "value loss": ("loss/value", "{:.3g}".format),
    "value/spearman": ("value/spearman", "{:.2f}".format),
}

_AGENT_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "env steps": ("steps/env", count),
    "steps/s": ("time/sps", count),
    "training return": (PERTURBED, "{:.2f}".format),
    "deterministic return": (UNPERTURBED, "{:.2f}".format),
    "value loss": ("loss/value", "{:.3g}".format),
}
