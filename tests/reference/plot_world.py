"""Draws the learning curves of a model of the drawn world, for docs/evidence.md.

    anyid-rt world make -o DIR
    python plot_world.py DIR [--out ../../docs/images/world-learning.png]

Reads the logs of the trainings, `DIR/stages/NAME/log.jsonl`. A panel is left empty where its training is not
there. Needs matplotlib.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BLUE, RED, GREEN, GREY = "#1f5fa8", "#b03030", "#2a7f3f", "#bbbbbb"
# Panel: title, stages one after the other, number of the log, label of the axis.
PANELS = [
    ("text encoder", ["text"], ["accuracy"], "words told apart"),
    ("autoencoder, first frame", ["frames", "vae"], ["psnr_first"], "PSNR in dB"),
    ("autoencoder, later frames", ["vae"], ["psnr_later"], "PSNR in dB"),
    ("transformer, pictures then clips", ["images", "clips"], ["error"], "error of the velocity"),
    ("adapter", ["tuned"], ["error"], "error of the velocity"),
    ("preferences", ["preferred"], ["accuracy"], "implicit accuracy"),
]


def rows(folder, stage):
    path = folder / "stages" / stage / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def smooth(values, width=20):
    out, mean = [], None
    for value in values:
        mean = value if mean is None else mean + (value - mean) / width
        out.append(mean)
    return out


def panel(axis, folder, title, stages, names, label):
    begin = 0
    for stage in stages:
        log = rows(folder, stage)
        for name in names:
            seen = [(begin + row["step"], row[name]) for row in log if row.get(name) is not None]
            held = [
                (begin + row["step"], row["validation"][name])
                for row in log
                if row.get("validation", {}).get(name) is not None
            ]
            first = begin == 0
            if seen:
                steps, values = zip(*seen)
                axis.plot(steps, smooth(values), color=GREY, linewidth=0.8, label="training" if first else None)
            if held:
                axis.plot(*zip(*held), color=BLUE, marker=".", label="other people" if first else None)
        if log:
            begin += log[-1]["step"]
            if stage != stages[-1]:
                axis.axvline(begin, color=RED, linestyle=":", linewidth=0.8)
    axis.set(title=title, xlabel="update", ylabel=label)
    if begin:
        axis.legend(frameon=False, fontsize=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs/images/world-learning.png")
    options = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(11, 6))
    for axis, (title, stages, names, label) in zip(axes.flat, PANELS):
        panel(axis, options.folder, title, stages, names, label)
    axes.flat[5].axhline(0.6, color=RED, linestyle=":", linewidth=0.8)
    axes.flat[3].set_yscale("log")
    figure.tight_layout()
    figure.savefig(options.out, dpi=90)
    print(options.out)


if __name__ == "__main__":
    main()
