"""Compares our kernels with PyTorch's on this machine: both in turn, in one run, as ratios.

    python compare_speed.py --program ../../target/release/anyid-rt [--rounds 3] [--threads 2]

Each round runs `anyid-rt bench ops --json` and `bench_torch.py` (eager and compiled) one after the
other, so that a machine whose speed drifts slows both alike. A row takes the median over the rounds
of each side's GFLOP/s, PyTorch's better mode counting, and their ratio. Prints a Markdown table
with the share of the machine's measured peak, as `docs/performance.md` keeps it.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# Our name of a kernel and PyTorch's case for it.
PAIRS = [
    ("linear {dtype} 2048x3072x14336", "linear_2048x3072x14336"),
    ("linear {dtype} 1024x3072x3072", "linear_1024x3072x3072"),
    ("attention {dtype} 24x4096x128", "attention_24x4096x128"),
    ("attention {dtype} 24x1024x128", "attention_24x1024x128"),
    ("conv3d {dtype} 3x3x3 256 channels 4x64x64", "conv3d_3x3x3_256_4x64x64"),
]


def ours(program, threads):
    """GFLOP/s by kernel name, and the peaks."""
    command = [program, "bench", "ops", "--json", "--threads", str(threads)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    rates = {row["name"]: row.get("gflops") for row in report["kernels"]}
    return rates, report["peak"]


def theirs(threads):
    """GFLOP/s by (case, dtype), the better of the modes."""
    command = [sys.executable, HERE / "bench_torch.py", "--threads", str(threads)]
    command += ["--mode", "eager", "compile", "--only", "linear", "attention", "conv3d"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    best = {}
    for line in output.splitlines():
        row = json.loads(line)
        if "gflops" in row:
            key = (row["name"], row["dtype"])
            best[key] = max(best.get(key, 0.0), row["gflops"])
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    mine, torch, peak = [], [], None
    for _ in range(options.rounds):
        rates, peak = ours(options.program, options.threads)
        mine.append(rates)
        torch.append(theirs(options.threads))
    print("| kernel | anyid-rt GFLOP/s | of peak | PyTorch GFLOP/s | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for our_name, torch_name in PAIRS:
        for dtype in ("f32", "bf16"):
            name = our_name.format(dtype=dtype)
            a = [rates[name] for rates in mine if rates.get(name)]
            b = [rates[(torch_name, dtype)] for rates in torch if (torch_name, dtype) in rates]
            if not a or not b:
                print(f"| {name} | not measured on both sides | | | |")
                continue
            a, b = statistics.median(a), statistics.median(b)
            ratios.append(a / b)
            share = a / peak[f"{dtype}_gflops"]
            print(f"| {name} | {a:.0f} | {share:.0%} | {b:.0f} | {a / b:.2f} |")
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"| geometric mean | | | | {mean:.2f} |")


if __name__ == "__main__":
    main()
