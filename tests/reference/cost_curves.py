"""Time of a step of the transformer against tokens and references, as a plot and a table.

    python cost_curves.py --program ../../target/release/anyid-rt --out ../../docs/images/cost.png

Measured is one block of the real width in bf16 with 512 rows of text (`anyid-rt bench dit`), the shortest of
`--repeats` runs; a step without guidance is 30 of them, embeddings and head aside, which are under 1 % of the
operations from 1,024 tokens on. References are pictures at 832x480, of 390 tokens each, in front of a target of 21
latent frames. Beside the time stand the operations that the compiler counts.
"""

import argparse
import json
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAYERS = 30
TOKENS = [256, 512, 1024, 2048, 4096, 8192, 16384]
REFERENCES = range(6)
FRAME = (832 // 32) * (480 // 32)
TARGET = 21 * FRAME


def measure(options, tokens):
    """Seconds and operations of a block, and the peak of the instruction in operations a second."""
    words = ["dit", "--blocks", "1", "--precision", "bf16", "--tokens", str(tokens)]
    words += ["--repeats", str(options.repeats), "--threads", str(options.threads), "--json"]
    done = subprocess.run([options.program, "bench", *words], capture_output=True, check=True)
    report = json.loads(done.stdout)
    peak = report["peak"]["bf16_gflops"] * 1e9
    print(f"{tokens} tokens: {report['shortest_seconds']:.3f} s", file=sys.stderr, flush=True)
    return report["shortest_seconds"], report["flops"], peak


def panel(axes, places, rows, label, log):
    seconds = [LAYERS * row[0] for row in rows]
    limit = [LAYERS * row[1] / row[2] for row in rows]
    axes.plot(places, seconds, "o-", color="#1f6f8b", label="measured")
    axes.plot(places, limit, "--", color="#999999", label="operations / peak of the instruction")
    axes.set_xlabel(label)
    axes.set_ylabel("seconds a step")
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(places, [f"{place:,}" for place in places], rotation=45)
    else:
        axes.set_ylim(bottom=0)
    axes.grid(True, which="both", color="#e5e5e5", linewidth=0.6)
    axes.legend(frameon=False)


def table(head, places, rows):
    print(f"| {head} | seconds a step | 10^12 operations | of peak |\n|---|---|---|---|")
    for place, (seconds, flops, peak) in zip(places, rows):
        share = flops / peak / seconds
        print(f"| {place:,} | {LAYERS * seconds:.2f} | {LAYERS * flops / 1e12:.1f} | {share:.0%} |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    by_tokens = [measure(options, tokens) for tokens in TOKENS]
    by_references = [measure(options, TARGET + FRAME * count) for count in REFERENCES]
    table("tokens", TOKENS, by_tokens)
    table("references", REFERENCES, by_references)
    figure, sides = plt.subplots(1, 2, figsize=(10, 4), dpi=110)
    panel(sides[0], TOKENS, by_tokens, "tokens", True)
    panel(sides[1], list(REFERENCES), by_references, "reference pictures, 832x480, 81 frames", False)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
