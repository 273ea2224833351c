"""Draws the curves of docs/training.md.

    ANYID_RT_CURVES=/absolute/DIR cargo test --release -p anyid-cli --test train_evidence
    python plot_training.py DIR [--out ../../docs/images]

The test leaves a log of each run (`one.jsonl`, `many.jsonl`, `dpo.jsonl`); curves are drawn of those that
are there. Needs matplotlib.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BLUE, RED, GREEN, GREY = "#1f5fa8", "#b03030", "#2a7f3f", "#bbbbbb"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def series(rows, *names):
    """Updates and values of a number of the log, where it is there."""
    found = []
    for row in rows:
        value = row
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found.append((row["step"], value))
    return list(zip(*found))


def learning(log, title, path):
    figure, axis = plt.subplots(figsize=(5, 3.2))
    steps, losses = series(log, "validation", "loss")
    _, shares = series(log, "validation", "over_base")
    base = losses[0] / shares[0]
    axis.plot(*series(log, "error"), color=GREY, linewidth=0.6, label="each update")
    axis.plot([0, *steps], [base, *losses], color=BLUE, label="at fixed draws")
    axis.axhline(0.05 * base, color=RED, linestyle=":", label="5 % of the first")
    axis.set(title=title, xlabel="update", yscale="log", ylabel="error of the velocity")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def preferences(log, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    axes[0].plot(*series(log, "accuracy"), color=GREY, label="training pairs, each update")
    axes[0].plot(*series(log, "validation", "accuracy"), color=BLUE, label="held-out pairs")
    axes[0].axhline(0.8, color=RED, linestyle=":")
    axes[0].set(title="implicit accuracy", xlabel="update", ylim=(0, 1.03))
    for name, colour in (("chosen", GREEN), ("rejected", RED)):
        axes[1].plot(*series(log, "validation", name), color=colour, label=name)
    axes[1].axhline(0, color=GREY, linewidth=0.6)
    axes[1].set(title="error less that of the untrained network, held-out pairs", xlabel="update")
    for axis in axes:
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    default = Path(__file__).resolve().parents[2] / "docs/images"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    for name, title in (("one", "one sample"), ("many", "32 samples")):
        path = arguments.folder / f"{name}.jsonl"
        if path.exists():
            learning(rows(path), title, arguments.out / f"training-{name}.png")
    path = arguments.folder / "dpo.jsonl"
    if path.exists():
        preferences(rows(path), arguments.out / "preferences.png")


if __name__ == "__main__":
    main()
