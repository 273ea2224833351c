"""Trains here and in PyTorch with the same draws, and compares loss by loss.

    python train.py path/to/anyid-rt [--steps 20]

`anyid-rt train` runs on three clips of `examples/` with the built-in model, written as a folder. Then the
same run is made with diffusers' WanTransformer3DModel, PEFT and torch.optim.AdamW. Latents and text
contexts are taken from the cache of the run, whose entries say what they were made of; the order of
samples, noise levels, noise and null decisions are made again here from seed, id and epoch
(docs/spec/anyid.md §4.5). First values of adapters are PEFT's, which the run begins from (--init-from).

Kinds: an adapter on samples, an adapter on pairs, every weight, and every weight with Muon for the matrices of
blocks under a rate that falls. Muon is written out here in f32, and made by torch.optim.Muon besides, whose
products are in bf16: its losses have to agree within 1e-2. Compared are the loss and the norm of the
gradient of every update, the loss at the end, and what was trained. Losses have to agree within 1e-4 of
their value. The exit code is 1 where they do not. Where the libraries are missing nothing is checked, and a line says so.
"""

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

try:
    import numpy as np
    import peft
    import torch
    from diffusers import WanTransformer3DModel
    from safetensors import safe_open
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    import pipeline
    import text
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

TOLERANCE = 1e-4
# Of torch.optim.Muon, which makes matrices orthogonal in bf16.
BF16_TOLERANCE = 1e-2
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
SETTINGS = """
[model]
path = "model"
[data]
manifest = "samples.jsonl"
cache = "cache"
[video]
width = 64
height = 64
frames = 5
[lora]
rank = 4
alpha = 8.0
[train]
batch = 2
learning_rate = 2e-3
warmup = 3
null_probability = 0.3
seed = 11
[dpo]
beta = 50.0
draws = 2
null_probability = 0.3
sft_weight = 0.1
label_smoothing = 0.05
[run]
checkpoint_every = 1000
"""
# Muon for the matrices of blocks, the rest as above, rates that fall over the last half.
GROUPS = """
[[group]]
match = ["blocks.*_attn.q.weight", "blocks.*_attn.k.weight", "blocks.*_attn.v.weight",
         "blocks.*_attn.o.weight", "blocks.*.ffn.*.weight"]
optimiser = "muon"
learning_rate = 0.02
weight_decay = 0.01
"""
FALLING = {"schedule": "linear", "decay": 0.5, "floor": 0.03}


# What is drawn (runtime/src/training/draws.rs, docs/spec/sampling.md §10).


def bits(seed, purpose, name, number):
    """Four numbers of 64 bits that depend on all of these."""
    data = seed.to_bytes(8, "little") + purpose.encode() + b"\0" + name.encode() + b"\0"
    digest = hashlib.sha256(data + number.to_bytes(8, "little")).digest()
    return [int.from_bytes(digest[8 * at : 8 * at + 8], "little") for at in range(4)]


def unit(word):
    return (word >> 11) / 2**53


def philox(counter, key):
    """Philox 4x32 with 10 rounds, for arrays of counters."""
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for _ in range(10):
        first = np.uint64(0xD2511F53) * counter[0]
        second = np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (second >> shift) ^ counter[1] ^ key[0],
            second & low,
            (first >> shift) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    return counter


def noise(seed, shape):
    """Stream 1 of the counter-based noise."""
    count = math.prod(shape)
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    counter = [block & low, block >> np.uint64(32), np.ones_like(block), np.zeros_like(block)]
    words = philox(counter, [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)])
    values = []
    for a, b in (words[:2], words[2:]):
        radius = np.sqrt(-2 * np.log((a + 0.5) / 2**32))
        angle = 2 * np.pi * b.astype(np.float64) / 2**32
        values += [radius * np.cos(angle), radius * np.sin(angle)]
    flat = np.stack(values, 1).reshape(-1)[:count].astype(np.float32)
    return torch.from_numpy(flat).reshape(shape)


class Levels:
    """The table of noise levels with the weights of the loss."""

    def __init__(self, count=1000, shift=5.0):
        u = 1 - torch.arange(count, dtype=torch.float64) / count
        self.sigma = shift * u / (1 + (shift - 1) * u)
        bell = torch.exp(-2 * (self.sigma - 0.5) ** 2)
        bell = bell - bell.min()
        self.weight = bell * count / bell.sum()
        self.count = count


def turn(seed, name, epoch, count):
    """Which of the draws of a pair an epoch takes."""
    rest = list(range(count))
    wanted = epoch % count
    for at in range(wanted + 1):
        other = at + (bits(seed, "turn", name, at)[0] * (count - at) >> 64)
        rest[at], rest[other] = rest[other], rest[at]
    return rest[wanted]


class World:
    """A folder with a model, clips, manifests and settings, and the runs made in it."""

    def __init__(self, program, folder, steps):
        self.program, self.folder, self.steps = program, folder, steps
        self.settings = tomllib.loads(SETTINGS)
        self.run("init", "model", "--random-weights", "--seed", 3)
        for name in ("astronaut.png", "portrait_pan.mp4"):
            shutil.copyfile(EXAMPLES / name, folder / name)
        (folder / "run.toml").write_text(SETTINGS)
        (folder / "muon.toml").write_text(SETTINGS + GROUPS)
        samples = [self.sample(at) for at in range(3)]
        # One of them has a clip as a second reference, and so another shape.
        samples[1]["references"].append(
            {"role": "aux", "form": "video", "clip": "v", "media": "portrait_pan.mp4",
             "start": 0, "frames": 5}
        )  # fmt: skip
        self.write("samples.jsonl", samples)
        pairs = []
        for at in range(3):
            for side in ("chosen", "rejected"):
                seed = 2 * at + (side == "rejected")
                self.run("generate", "--model", "model", "--size", "64x64", "--frames", 5, "--steps",
                         2, "--prompt", "x", "--seed", seed, "-o", f"{side}{at}.mp4")  # fmt: skip
            pairs.append({
                "schema": "anyid.dpo/1", "id": f"m_{at}", "sample": self.sample(at),
                "chosen": {"video": f"chosen{at}.mp4"}, "rejected": {"video": f"rejected{at}.mp4"},
            })  # fmt: skip
        self.write("pairs.jsonl", [{"schema": "anyid.dpo/1"}, *pairs])
        self.samples, self.pairs = samples, pairs
        self.tokenizer = Tokenizer.from_file(str(folder / "model/tokenizer/tokenizer.json"))

    def sample(self, at):
        return {
            "schema": "anyid.sample/1", "id": f"s_{at}",
            "target": {"clip": f"c_{at}", "media": "portrait_pan.mp4", "start": 10 + 20 * at,
                       "frames": 5, "fps": 24, "crop": [60, 0, 420, 360]},
            "references": [{"role": "primary", "form": "portrait", "clip": "p", "media":
                            "astronaut.png", "frame": 0, "crop": [100, 0, 400, 300]}],
            "prompt": f"A person, take {at}.",
        }  # fmt: skip

    def write(self, name, lines):
        (self.folder / name).write_text("\n".join(map(json.dumps, lines)))

    def run(self, *words):
        words = [str(word) for word in words]
        subprocess.run(
            [self.program, *words, "-q"], check=True, cwd=self.folder, stdout=subprocess.DEVNULL
        )

    def train(self, kind, *more):
        """Makes a run; gives the rows of its log."""
        words = [] if kind != "dpo" else ["--set", "data.manifest=pairs.jsonl"]
        trained, config = kind, "run.toml"
        if kind == "muon":
            trained, config = "full", "muon.toml"
            for key, value in FALLING.items():
                words += ["--set", f"train.{key}={value}"]
        self.run("train", trained, "--config", config, "--steps", self.steps, "-o", kind,
                 "--threads", 2, *words, *more)  # fmt: skip
        lines = (self.folder / kind / "log.jsonl").read_text().splitlines()
        self.entries = []
        for path in (self.folder / "cache").glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                source = json.loads(file.metadata()["source"])
                self.entries.append((source, file.get_tensor("value")))
        return [json.loads(line) for line in lines]

    def entry(self, **wanted):
        """The entry of the cache that was made of this."""
        found = [v for source, v in self.entries
                 if all(key in source and source[key] == value for key, value in wanted.items())]  # fmt: skip
        if len(found) != 1:
            raise ValueError(f"{len(found)} entries of {wanted}")
        return found[0]

    def clip(self, clip, fit):
        media = clip.get("media") or clip["video"]
        digest = hashlib.sha256((self.folder / media).read_bytes()).hexdigest()
        start = clip.get("start", clip.get("frame", 0))
        frames = clip.get("frames", 5 if fit == "Cover" else 1)
        return self.entry(media=digest, start=start, frames=frames, fit=fit, crop=clip.get("crop"))

    def condition(self, sample, null):
        """References along time and the text context, each with a batch axis."""
        rows = next(source["rows"] for source, _ in self.entries if "rows" in source)
        prompt = "" if null else sample["prompt"]
        ids, mask = text.padded(self.tokenizer, [prompt], rows)
        context = self.entry(tokens=ids[0][: mask[0].sum()].tolist())
        parts = [self.clip(clip, "Inside") for clip in sample["references"]]
        if null:
            # The longest black clip of the run; each reference takes a prefix of it.
            black = max((v for s, v in self.entries if "black" in s), key=lambda v: v.shape[1])
            parts = [black[:, : part.shape[1]] for part in parts]
        return torch.cat(parts, 1)[None], context[None]


class Learner:
    """The same objective in PyTorch."""

    def __init__(self, world, transformer):
        self.world, self.transformer, self.levels = world, transformer, Levels()
        self.seed = world.settings["train"]["seed"]

    def error(self, clean, condition, seed, level):
        """The mean squared error of the velocity."""
        references, context = condition
        eps = noise(seed, clean.shape)
        sigma = float(self.levels.sigma[level])
        noisy = (1 - sigma) * clean + sigma * eps
        v = pipeline.velocity(self.transformer, [references], noisy[None], 1000 * sigma, context)
        return ((v[0] - (eps - clean)) ** 2).mean()

    def sample(self, sample, epoch):
        """The loss of a sample in an epoch."""
        word, level, null, _ = bits(self.seed, "sample", sample["id"], epoch)
        null = unit(null) < self.world.settings["train"]["null_probability"]
        level = level * self.levels.count >> 64
        clean = self.world.clip(sample["target"], "Cover")
        condition = self.world.condition(sample, null)
        return self.levels.weight[level] * self.error(clean, condition, word, level)

    def pair(self, pair, epoch):
        """The loss of a pair in an epoch."""
        dpo = self.world.settings["dpo"]
        at = turn(self.seed, pair["id"], epoch, dpo["draws"])
        word, place, _, _ = bits(self.seed, "dpo", pair["id"], at)
        level = int((at + unit(place)) / dpo["draws"] * self.levels.count)
        null = unit(bits(self.seed, "sample", pair["id"], epoch)[2]) < dpo["null_probability"]
        condition = self.world.condition(pair["sample"], null)
        clips = [self.world.clip(pair[side], "Cover") for side in ("chosen", "rejected")]
        own = [self.error(clip, condition, word, level) for clip in clips]
        with torch.no_grad(), self.transformer.disable_adapter():
            base = [self.error(clip, condition, word, level) for clip in clips]
        delta = dpo["beta"] / 2 * ((own[0] - base[0]) - (own[1] - base[1]))
        plus = torch.nn.functional.softplus
        wrong = dpo["label_smoothing"]
        return (1 - wrong) * plus(delta) + wrong * plus(-delta) + dpo["sft_weight"] * own[0]

    def train(self, items, loss_of, muon=None):
        """Loss and norm of the gradient of every update. `muon` makes the optimiser of matrices of blocks."""
        train = self.world.settings["train"]
        named = [(name, p) for name, p in self.transformer.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if muon and in_block(name, p)]
        taken = {id(p) for p in matrices}
        rest = [(name, p) for name, p in named if id(p) not in taken]
        # Vectors do not decay where every weight is trained.
        groups = [
            {"params": [p for name, p in rest if "lora_" in name or p.dim() > 1],
             "weight_decay": 0.001},
            {"params": [p for name, p in rest if "lora_" not in name and p.dim() <= 1],
             "weight_decay": 0.0},
        ]  # fmt: skip
        groups = [group for group in groups if group["params"]]
        optimisers = [torch.optim.AdamW(groups, lr=train["learning_rate"])]
        if muon:
            optimisers.append(muon(matrices))
        share = self.share_falling if muon else self.share
        rates = [torch.optim.lr_scheduler.LambdaLR(one, share) for one in optimisers]
        rows, position = [], 0
        for _ in range(self.world.steps):
            self.transformer.zero_grad()
            total = 0
            for _ in range(train["batch"]):
                epoch, at = divmod(position, len(items))
                order = sorted(items, key=lambda item: bits(self.seed, "order", item["id"], epoch))
                loss = loss_of(order[at], epoch) / train["batch"]
                loss.backward()
                total += loss.item()
                position += 1
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0).item()
            for one in [*optimisers, *rates]:
                one.step()
            rows.append({"loss": total, "norm": norm})
        return rows

    def share(self, done):
        return min((done + 1) / self.world.settings["train"]["warmup"], 1)

    def share_falling(self, done):
        left = (1 - done / self.world.steps) / FALLING["decay"]
        return self.share(done) * max(min(left, 1), FALLING["floor"])


def in_block(name, parameter):
    """Whether a parameter is in the group of GROUPS."""
    ends = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    return name.startswith("blocks.") and name.endswith(tuple(f"{end}.weight" for end in ends))


class Muon(torch.optim.Optimizer):
    """As docs/spec/anyid.md §4.3 writes it down, in f32."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.02})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(0.95).add_(p.grad)
                p.mul_(1 - group["lr"] * 0.01)
                p.add_(self.orthogonal(p.grad + 0.95 * m), alpha=-group["lr"])

    @staticmethod
    def orthogonal(gradient):
        rows, columns = gradient.shape
        x = gradient.T if rows > columns else gradient
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            m = x @ x.T
            x = 3.4445 * x + (-4.7750 * m + 2.0315 * m @ m) @ x
        return (x.T if rows > columns else x) * max(1, rows / columns) ** 0.5


def library_muon(parameters):
    return torch.optim.Muon(
        parameters, lr=0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"
    )


def compare(kind, ours, theirs, values, tolerance=TOLERANCE):
    """Prints what differs; whether it is little enough."""
    apart = {
        name: max(abs(a[name] - b[name]) / abs(b[name]) for a, b in zip(ours, theirs, strict=True))
        for name in ("loss", "norm")
    }
    first, end = theirs[0]["loss"], theirs[-1]["loss"]
    last = abs(ours[-1]["loss"] - end)
    # What was trained, against the way that it went.
    way = math.sqrt(sum(((b - a) ** 2).sum().item() for a, b, _ in values))
    off = math.sqrt(sum(((c - b) ** 2).sum().item() for _, b, c in values)) / way
    fine = apart["loss"] <= tolerance and last <= tolerance
    print(
        f"{'ok    ' if fine else 'FAILED'} {kind}: {len(ours)} updates, loss {first:.6f} to "
        f"{end:.6f}, at the end {last:.1e} apart; of all updates at most {apart['loss']:.1e} "
        f"(loss) and {apart['norm']:.1e} (norm of the gradient) of their value; what was trained "
        f"is apart by {off:.1e} of its way"
    )
    return fine


def adapted(world, transformer, kind):
    """A transformer with a new adapter; its first values, and the words by which a run gets them."""
    lora = world.settings["lora"]
    config = peft.LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=TARGETS)
    torch.manual_seed(5)
    model = peft.get_peft_model(transformer, config)
    model.save_pretrained(world.folder / f"first_{kind}")
    return model, ["--init-from", f"first_{kind}"]


def adapter_values(world, kind, model, first):
    """First, their and our values of every matrix of an adapter."""
    world.run("lora", "convert", f"{kind}/adapter.safetensors", "--to", "peft", "-o", f"{kind}_peft")
    ours = load_file(world.folder / f"{kind}_peft" / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(model)
    if ours.keys() != theirs.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")
    return [(first[name], theirs[name].detach(), ours[name]) for name in ours]


def ways(kind):
    """The optimisers that a run is compared with: name, what makes that of matrices, tolerance."""
    if kind != "muon":
        return [(kind, None, TOLERANCE)]
    return [(kind, Muon, TOLERANCE), ("torch.optim.Muon", library_muon, BF16_TOLERANCE)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        world = World(arguments.program.resolve(), Path(folder), arguments.steps)
        source = world.folder / "model/transformer"
        for kind in ("lora", "dpo", "full", "muon"):
            model = WanTransformer3DModel.from_pretrained(source, torch_dtype=torch.float32)
            whole = kind in ("full", "muon")
            if whole:
                first = {name: value.clone() for name, value in model.state_dict().items()}
                ours = world.train(kind)
            else:
                model, words = adapted(world, model, kind)
                state = peft.get_peft_model_state_dict(model)
                first = {name: value.detach().clone() for name, value in state.items()}
                ours = world.train(kind, *words)
            for name, optimiser, tolerance in ways(kind):
                if optimiser is library_muon:
                    model = WanTransformer3DModel.from_pretrained(source, torch_dtype=torch.float32)
                learner = Learner(world, model.train())
                items = (
                    (world.samples, learner.sample) if kind != "dpo" else (world.pairs, learner.pair)
                )
                theirs = learner.train(*items, optimiser)
                if whole:
                    own = load_file(world.folder / kind / "transformer.safetensors")
                    state = model.state_dict()
                    values = [(first[name], state[name], own[name]) for name in state]
                else:
                    values = adapter_values(world, kind, model, first)
                fine &= compare(name, ours, theirs, values, tolerance)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
