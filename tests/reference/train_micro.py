"""Samples a second of training a micro transformer, here and in PyTorch, in turn in one run.

    python train_micro.py path/to/anyid-rt [--batch 32] [--rounds 3] [--updates 60] [--threads 2]
        [--compile-limit 300]

Ours is `anyid-rt train full` on clips of `examples/` with the built-in micro model: everything that a
run does for an update, as the difference of a long and a short run. PyTorch's is the same network (diffusers'
WanTransformer3DModel, read from the same folder) on as many samples of the same shapes at once:
noise, forward pass with a timestep for each token as the model wants it, the mean squared error of
the velocity, backward pass, clipping, torch.optim.AdamW. It draws from a list of prepared latents and
texts, and reads no file. Each round runs ours, eager and compiled, in processes of their own; a side's
figure is the median over the rounds, PyTorch's better mode counting. Where torch.compile does not
finish its first updates within the limit, a line says so. Where the libraries are missing nothing is
measured, and a line says so.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRAMES, ROWS, COLUMNS = 2, 4, 4
SETTINGS = """
[model]
path = "model"
[data]
manifest = "train.jsonl"
cache = "cache"
[video]
width = 64
height = 64
frames = 5
[train]
batch = {batch}
learning_rate = 1e-3
loss_weight = "none"
"""


def world(program, folder, batch):
    """A folder with a model, 64 samples with one reference each, and settings."""
    run(program, folder, "init", "model", "--random-weights", "--seed", 3)
    examples = HERE.parents[1] / "examples"

    def sample(at):
        return {
            "schema": "anyid.sample/1", "id": f"s_{at}",
            "target": {"clip": f"c_{at}", "media": "portrait_pan.mp4", "start": at, "frames": 5,
                       "fps": 24, "crop": [60, 0, 420, 360]},
            "references": [{"role": "primary", "form": "portrait", "clip": "p", "media":
                            "astronaut.png", "frame": 0, "crop": [100, 0, 400, 300]}],
            "prompt": f"A person, take {at}.",
        }  # fmt: skip

    for name in ("astronaut.png", "portrait_pan.mp4"):
        (folder / name).write_bytes((examples / name).read_bytes())
    lines = [json.dumps(sample(at)) for at in range(64)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "run.toml").write_text(SETTINGS.format(batch=batch))


def run(program, folder, *words):
    words = [str(word) for word in words]
    done = subprocess.run([program, *words, "-q"], check=True, cwd=folder, capture_output=True)
    return done.stdout


def ours(options, folder, number):
    """Samples a second: what so many updates more take. Everything is encoded before."""

    def seconds(name, updates):
        words = ["--config", "run.toml", "-o", f"{name}{number}", "--steps", updates]
        words += ["--threads", options.threads, "--set", "run.checkpoint_every=1000000"]
        begun = time.perf_counter()
        run(options.program, folder, "train", "full", *words)
        return time.perf_counter() - begun

    if number == 0:
        seconds("first", 1)
    few, many = seconds("few", 5), seconds("many", 5 + options.updates)
    return options.updates * options.batch / (many - few)


def worker(options, folder):
    """PyTorch's samples a second in one mode."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = WanTransformer3DModel.from_pretrained(folder / "model/transformer").train()
    config, batch = model.config, options.batch
    forward = torch.compile(model) if options.worker == "compile" else model
    clean = torch.randn(64, config.in_channels, FRAMES, ROWS, COLUMNS)
    reference = torch.randn(64, config.in_channels, 1, ROWS, COLUMNS)
    text = torch.randn(64, 512, config.text_dim)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.001},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    tokens = ROWS * COLUMNS // 4

    def update():
        some = torch.randint(64, (batch,))
        x0, eps, sigma = clean[some], torch.randn(batch, *clean.shape[1:]), torch.rand(batch)
        level = sigma[:, None, None, None, None]
        given = torch.cat([reference[some], (1 - level) * x0 + level * eps], 2)
        times = 1000 * sigma[:, None].expand(batch, FRAMES * tokens)
        times = torch.cat([torch.zeros(batch, tokens), times], 1)
        v = forward(given, times, text[some], return_dict=False)[0][:, :, 1:]
        loss = ((v - (eps - x0)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return loss.item()

    for _ in range(3):
        update()
    begun = time.perf_counter()
    for _ in range(options.updates):
        update()
    print(options.updates * batch / (time.perf_counter() - begun))


def theirs(options, folder, mode):
    """[`worker`] in a process of its own; nothing where it does not finish in time."""
    words = [sys.executable, __file__, options.program, "--worker", mode, "--folder", str(folder)]
    for name in ("batch", "updates", "threads"):
        words += [f"--{name}", str(getattr(options, name))]
    try:
        limit = options.compile_limit if mode == "compile" else None
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile-limit", type=float, default=300)
    parser.add_argument("--worker", choices=["eager", "compile"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options, options.folder)
    try:
        import diffusers
        import torch
    except ImportError as missing:
        print(f"skipped: {missing}")
        return
    print(f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, "
          f"{options.threads} threads, batch {options.batch}")  # fmt: skip
    figures = {"anyid-rt": [], "eager": [], "compile": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        world(options.program, folder, options.batch)
        for number in range(options.rounds):
            figures["anyid-rt"].append(ours(options, folder, number))
            for mode in ("eager", "compile"):
                if None not in figures[mode]:
                    figures[mode].append(theirs(options, folder, mode))
    medians = {}
    for name, values in figures.items():
        if None in values:
            print(f"{name}: no figure within {options.compile_limit:.0f} s")
            continue
        medians[name] = statistics.median(values)
        each = ", ".join(f"{value:.0f}" for value in values)
        print(f"{name}: {medians[name]:.0f} samples a second ({each})")
    best = max(value for name, value in medians.items() if name != "anyid-rt")
    print(f"ratio: {medians['anyid-rt'] / best:.2f}")


if __name__ == "__main__":
    main()
