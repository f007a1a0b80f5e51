"""Figures of the docs from committed metrics.

python benchmarks/figures.py collect RUN OUT.jsonl [EVERY]   every so many iterations of a run
python benchmarks/figures.py draw                            docs/data to docs/figures

The paper's figures are not made here but by `epvf experiment`.
"""

import json
import sys
from pathlib import Path

from epvf.metrics import Record, read_metrics
from epvf.plotting import Group, draw, save

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEYS = (
    *("steps/update", "steps/env", "rollout/episode_return"),
    *("eval/episode_return", "eval/perturbed_return", "seed"),
)
FIGURES = {
    "ant-tuned": (
        "epvf train ant, and other methods",
        {
            "V(s, θ): psvf, the default": "ant-psvf-s[0-9].jsonl",
            "the same, raw coordinates": "ant-psvf-raw-s*.jsonl",
            "PPO (Brax), one seed": "ant-ppo-s*.jsonl",
            "matched OpenES": "ant-matched-openes-s*.jsonl",
            "V(θ): epvf": "ant-epvf-s*.jsonl",
        },
    ),
}
"""Name to title, and to the files of each group."""


def collect(run: Path, out: Path, every: int) -> None:
    """Copies what the figures need of every so many iterations, and the last."""
    records = read_metrics(run / "metrics.jsonl")
    last = records[-1]["steps/update"]
    with out.open("w") as file:
        for record in records:
            update = record["steps/update"]
            if (update - 1) % every == 0 or update == last:
                kept = {key: record[key] for key in KEYS if key in record}
                file.write(json.dumps(kept) + "\n")


def draw_all() -> None:
    """Draws every figure from the data that is there."""
    for name, (title, patterns) in FIGURES.items():
        groups = [Group(label, _read(pattern)) for label, pattern in patterns.items()]
        save(draw(groups, title=title), DOCS / "figures" / f"{name}.png")


def _read(pattern: str) -> list[list[Record]]:
    return [
        [{"seed": number} | json.loads(line) for line in path.read_text().splitlines()]
        for number, path in enumerate(sorted((DOCS / "data").glob(pattern)))
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["collect"]:
        every = int(sys.argv[4]) if len(sys.argv) > 4 else 1
        collect(Path(sys.argv[2]), Path(sys.argv[3]), every)
    elif sys.argv[1:] == ["draw"]:
        draw_all()
    else:
        sys.exit(__doc__)
