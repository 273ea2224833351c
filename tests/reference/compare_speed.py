"""Compares our kernels and networks with PyTorch's on this machine: both in turn, as ratios.

    python compare_speed.py --program ../../target/release/anyid-rt [--rounds 3] [--threads 2]
        [--only linear dit] [--dtype bf16] [--compile-limit 600] [--json rows.json]

A row is measured in rounds, each one run of ours and then PyTorch's eager and compiled runs, so that
a machine whose speed drifts slows both alike; every run is a process of its own, and which side
begins alternates. A side's figure is the median over the rounds, PyTorch's better mode counting.
Processor time is measured beside the time on the clock: `busy` is what a side got of its threads'
time, and `ratio of CPU` compares processor times. Where a side was busy for much less than the
other, or than in other rows, the machine was shared, and the row says little. Rows of networks also compare the most
memory a process held: `beyond start` leaves out what it held before the network was made (for
PyTorch, its libraries). Prints Markdown tables as `docs/performance.md` keeps them, rows as they are
measured on standard error. `--compile-limit` is how many seconds a run with torch.compile may take
in all; where it takes longer or fails the row is against eager alone and says so.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# Our name of a kernel, and PyTorch's case for it.
KERNELS = [
    ("linear {dtype} 2048x3072x14336", "linear_2048x3072x14336"),
    ("linear {dtype} 1024x3072x3072", "linear_1024x3072x3072"),
    ("attention {dtype} 24x4096x128", "attention_24x4096x128"),
    ("attention {dtype} 24x1024x128", "attention_24x1024x128"),
    ("conv3d {dtype} 3x3x3 256 channels 4x64x64", "conv3d_3x3x3_256_4x64x64"),
]

# Name, our command, PyTorch's case, timed calls of each side in a round.
NETWORKS = [
    ("DiT block, 1024 tokens", "dit --blocks 1 --tokens 1024", "dit_block_1024_tokens", 5),
    ("DiT block, 4096 tokens", "dit --blocks 1 --tokens 4096", "dit_block_4096_tokens", 3),
    ("DiT, 4 blocks, 320 tokens", "dit --all --blocks 4 --tokens 320", "dit_4_layers_320_tokens", 5),
    (
        "DiT block with adapters, forward and backward, 1024 tokens",
        "train --tokens 1024 --rank 128",
        "lora_block_1024_tokens",
        3,
    ),
    ("VAE decode, 1 frame", "vae --direction decode --frames 1", "vae_decode_1_frames", 3),
    ("VAE decode, 5 frames", "vae --direction decode --frames 5", "vae_decode_5_frames", 1),
    ("VAE encode, 1 frame", "vae --direction encode --frames 1", "vae_encode_1_frames", 3),
    ("VAE encode, 5 frames", "vae --direction encode --frames 5", "vae_encode_5_frames", 1),
]


def note(text):
    print(text, file=sys.stderr, flush=True)


def ours(options, words):
    """The report of `anyid-rt bench` with these words."""
    command = [options.program, "bench", *words, "--json", "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def kernel(options, name):
    """Seconds and figures of our kernel."""
    report = ours(options, ["ops", "--only", name])
    found = next(row for row in report["kernels"] if row["name"] == name)
    busy, seconds = found.get("busy"), found["seconds"]
    return {
        "seconds": seconds,
        "cpu": None if busy is None else busy * seconds * options.threads,
        "gflops": found["gflops"],
        "share": found["share_of_peak"],
    }


def network(options, words, dtype, repeats):
    """Seconds and figures of our network."""
    words = [*words.split(), "--precision", dtype, "--repeats", str(repeats)]
    report = ours(options, words)
    memory = report["memory"]
    return {
        "seconds": report["seconds"],
        "cpu": report.get("processor_seconds"),
        "gflops": report["gflops"],
        "share": report["share_of_peak"],
        "planned": memory["planned_bytes"],
        "peak": memory["process_peak_bytes"],
        "start": memory["process_start_bytes"],
    }


def theirs(options, case, dtype, mode, repeats):
    """Seconds and memory of PyTorch's case, or the reason why there are none."""
    command = [sys.executable, HERE / "bench_torch.py", "--threads", str(options.threads)]
    command += ["--mode", mode, "--only", case, "--dtype", dtype, "--repeats", str(repeats)]
    command += ["--warmup", "1"]
    limit = options.compile_limit if mode == "compile" else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {limit:.0f} s"}
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or len(rows) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"error": last[:200]}
    row = rows[0]
    if "error" in row:
        return {"error": row["error"]}
    keys = {"seconds": "seconds", "cpu": "cpu_seconds", "peak": "peak_bytes", "start": "start_bytes"}
    return {key: row[name] for key, name in keys.items()}


def middle(rows, key):
    """Median over the rounds of what every row has, else None."""
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else statistics.median(values)


def measured(options, name, dtype, run, case, repeats):
    """A row: both sides in turn, round after round."""
    mine, torch, failed = [], {mode: [] for mode in options.mode}, {}

    def other(mode):
        found = theirs(options, case, dtype, mode, repeats)
        if "error" in found:
            failed[mode] = found["error"]
        else:
            torch[mode].append(found)

    for number in range(options.rounds):
        turns = [lambda: mine.append(run())]
        turns += [lambda mode=mode: other(mode) for mode in options.mode if mode not in failed]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
    row = {"name": name, "dtype": dtype, "rounds": options.rounds, "failed": failed}
    for key in ["seconds", "cpu", "gflops", "share", "planned", "peak", "start"]:
        row[key] = middle(mine, key)
    best = {m: middle(rows, "seconds") for m, rows in torch.items() if m not in failed}
    if best:
        mode = min(best, key=best.get)
        keys = ["seconds", "cpu", "peak", "start"]
        row["torch"] = {key: middle(torch[mode], key) for key in keys}
        row["torch"] |= {"mode": mode, "others": best}
        row["ratio"] = row["torch"]["seconds"] / row["seconds"]
        if row["cpu"] and row["torch"]["cpu"]:
            row["cpu_ratio"] = row["torch"]["cpu"] / row["cpu"]
    for side in [row, row.get("torch", {})]:
        if side.get("cpu"):
            side["busy"] = side["cpu"] / (side["seconds"] * options.threads)
    note(json.dumps(row))
    return row


def time(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def mebibytes(count):
    return "?" if count is None else f"{count / 2**20:.0f}"


def table(head, rows):
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def percent(share):
    return "" if share is None else f"{share:.0%}"


def speed(rows):
    """Times and their ratio, with the geometric mean."""
    cells = []
    for row in rows:
        torch = row.get("torch")
        right = ["not measured", "", "", "", ""]
        if torch:
            cpu = f"{row['cpu_ratio']:.2f}" if "cpu_ratio" in row else ""
            right = [time(torch["seconds"]), percent(torch.get("busy")), torch["mode"]]
            right += [f"{row['ratio']:.2f}", cpu]
        left = [f"{row['name']}, {row['dtype']}", time(row["seconds"]), percent(row.get("busy"))]
        cells.append([*left, f"{row['gflops']:.0f}", f"{row['share']:.0%}", *right])
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        cells.append(["geometric mean", "", "", "", "", "", "", "", f"{mean:.2f}", ""])
    head = ["", "anyid-rt", "busy", "GFLOP/s", "of peak"]
    head += ["PyTorch", "busy", "its mode", "ratio", "ratio of CPU"]
    table(head, cells)


def memory(rows):
    """Peak memory of the processes in MiB."""
    cells = []
    for row in rows:
        torch = row.get("torch")
        if row["peak"] is None or not torch or torch["peak"] is None:
            continue
        own, other = row["peak"], torch["peak"]
        cells.append(
            [
                f"{row['name']}, {row['dtype']}",
                mebibytes(row["planned"]),
                mebibytes(own),
                mebibytes(other),
                f"{other / own:.2f}",
                mebibytes(own - row["start"]),
                mebibytes(other - torch["start"]),
                f"{(other - torch['start']) / (own - row['start']):.2f}",
            ]
        )
    if cells:
        head = ["MiB", "planned", "anyid-rt", "PyTorch", "ratio"]
        table([*head, "anyid-rt beyond start", "PyTorch beyond start", "ratio"], cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of PyTorch's case names")
    parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    modes = ["eager", "compile"]
    parser.add_argument("--mode", nargs="+", choices=modes, default=modes)
    parser.add_argument("--compile-limit", type=float, default=600.0, help="seconds")
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    options = parser.parse_args()

    def wanted(case):
        return not options.only or case.startswith(tuple(options.only))

    kernels, networks = [], []
    for name, case in KERNELS:
        for dtype in options.dtype if wanted(case) else []:
            mine = name.format(dtype=dtype)
            shown = name.replace(" {dtype}", "")
            kernels.append(
                measured(options, shown, dtype, lambda mine=mine: kernel(options, mine), case, 7)
            )
    for name, words, case, repeats in NETWORKS:
        for dtype in options.dtype if wanted(case) else []:

            def run(words=words, dtype=dtype, repeats=repeats):
                return network(options, words, dtype, repeats)

            networks.append(measured(options, name, dtype, run, case, repeats))
    if options.json:
        options.json.write_text(json.dumps(kernels + networks, indent=1) + "\n")
    for rows in [kernels, networks]:
        if rows:
            speed(rows)
    memory(networks)
    for row in kernels + networks:
        for mode, why in row["failed"].items():
            print(f"{row['name']}, {row['dtype']}: PyTorch's {mode} was not measured: {why}")


if __name__ == "__main__":
    main()
