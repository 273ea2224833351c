"""Samples a processor second of a small transformer's training step, here and in PyTorch, in turn.

    python train_world.py path/to/anyid-rt [--samples 64] [--rounds 3] [--threads 1] [--forms NAME…]

The transformer has the sizes that a model of small pictures needs (width 192, four blocks, tokens of one
latent): forward and backward pass over all weights, without the optimiser. Ours is
`anyid-rt bench train --all` on a folder with its configuration, in f32 and bf16. PyTorch has the same
network (diffusers' WanTransformer3DModel) in several forms, none of them compiled:

    library   the module itself, a timestep for each token, f32
    autocast  the same with products in bf16
    streams   the same weights in bf16; references and targets apart, so that a modulation is one row a
              sample; attention as two products and a softmax; the references' rows end at the last
              block's keys, because nothing reads what comes of them
    fused     as streams, with PyTorch's own attention

Every process runs alone and reports its processor time; a figure is the median over the rounds. Where
the libraries are missing nothing is measured, and a line says so.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADS, HEAD, LAYERS, CHANNELS, TEXT, WORDS = 6, 32, 4, 24, 96, 44
REFERENCE, TARGET, SIDE = 1, 2, 6
TOKENS = (REFERENCE + TARGET) * SIDE * SIDE
CONFIG = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.42.1",
    "patch_size": [1, 1, 1], "num_attention_heads": HEADS, "attention_head_dim": HEAD,
    "in_channels": CHANNELS, "out_channels": CHANNELS, "text_dim": TEXT, "freq_dim": 256,
    "ffn_dim": 768, "num_layers": LAYERS, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
    "added_kv_proj_dim": None, "image_dim": None, "pos_embed_seq_len": None,
}  # fmt: skip
FORMS = ("library", "autocast", "streams", "fused")


def ours(options, folder, precision):
    words = [options.program, "bench", "train", "--all", "--model", folder, "--blocks", LAYERS]
    words += ["--tokens", TOKENS, "--text-tokens", WORDS, "--samples", options.samples]
    words += ["--precision", precision, "--threads", options.threads, "--repeats", 5, "--json"]
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True)
    return options.samples / json.loads(done.stdout)["processor_seconds"]


def streams(torch, model, attend):
    """A forward pass that keeps references and targets apart where a modulation is applied."""
    from torch.nn import functional as F

    half, width = torch.bfloat16, HEADS * HEAD

    def heads(x):
        return x.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)

    def normed(linear, norm, x):
        return F.rms_norm(linear(x), (width,), norm.weight, 1e-6)

    def turned(x, table):
        cos, sin = table
        other = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return torch.addcmul(x * cos, other, sin)

    def attention(block, x, context, tables):
        q = heads(normed(block.to_q, block.norm_q, x))
        k = heads(normed(block.to_k, block.norm_k, context))
        if tables:
            q, k = turned(q, tables[0]), turned(k, tables[1])
        mixed = attend(q, k, heads(block.to_v(context)))
        return block.to_out[0](mixed.transpose(1, 2).flatten(2))

    def plain(x):
        return F.layer_norm(x, (width,), None, None, 1e-6)

    def modulated(parts, shift, scale):
        # The references' row comes first.
        rows = [slice(1, None), slice(0, 1)][: len(parts)]
        each = [torch.addcmul(shift[r, None], plain(x), 1 + scale[r, None])
                for x, r in zip(parts, rows)]  # fmt: skip
        return torch.cat(each[::-1], 1)

    def gated(parts, made, gate):
        rows = [slice(1, None), slice(0, 1)][: len(parts)]
        made = [made[:, -parts[0].shape[1] :], made[:, : -parts[0].shape[1]]]
        return [torch.addcmul(x, o, gate[r, None]) for x, o, r in zip(parts, made, rows)]

    def forward(reference, target, times, text):
        embedder = model.condition_embedder
        weight = model.patch_embedding.weight.flatten(1)
        tokens = [x.to(half).flatten(2).transpose(1, 2) for x in (target, reference)]
        parts = [F.linear(x, weight, model.patch_embedding.bias) for x in tokens]
        everything = torch.cat([reference, target], 2)
        cos, sin = model.rope(everything)
        cos, sin = cos[0, None, :, 0], sin[0, None, :, 0]
        sign = torch.tensor([-1.0, 1.0]).repeat(HEAD // 2)
        table = (cos.to(half), (sin * sign).to(half))
        steps = embedder.timesteps_proj(torch.cat([torch.zeros(1), times]))
        steps = embedder.time_embedder(steps.to(half))
        tables = embedder.time_proj(F.silu(steps)).unflatten(1, (6, -1))
        context = embedder.text_embedder(text.to(half))
        for at, block in enumerate(model.blocks):
            shift, scale, gate, *second = (block.scale_shift_table + tables).to(half).unbind(1)
            given = modulated(parts, shift, scale)
            asked, own = given, table
            if at + 1 == LAYERS:
                count = parts[0].shape[1]
                asked, own, parts = given[:, -count:], tuple(t[:, -count:] for t in table), parts[:1]
            made = attention(block.attn1, asked, given, (own, table))
            parts = gated(parts, made, gate)
            rows = torch.cat(parts[::-1], 1)
            normal = F.layer_norm(rows, (width,), block.norm2.weight, block.norm2.bias, 1e-6)
            rows = rows + attention(block.attn2, normal, context, None)
            count = parts[0].shape[1]
            parts = [rows[:, -count:], rows[:, :-count]][: len(parts)]
            wide, _, narrow = block.ffn.net
            made = modulated(parts, *second[:2])
            made = narrow(F.gelu(wide.proj(made), approximate="tanh"))
            parts = gated(parts, made, second[2])
        shift, scale = (model.scale_shift_table + steps[1:, None]).to(half).unbind(1)
        rows = torch.addcmul(shift[:, None], plain(parts[0]), 1 + scale[:, None])
        return model.proj_out(rows).float().transpose(1, 2).unflatten(2, target.shape[2:])

    return forward


def worker(options):
    """Samples a processor second of one form, or the largest difference of its result to another's."""
    import torch
    from diffusers import WanTransformer3DModel
    from torch.nn import functional as F

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = WanTransformer3DModel.from_config(CONFIG).train()
    count = options.samples
    reference = torch.randn(count, CHANNELS, REFERENCE, SIDE, SIDE)
    target, noise = torch.randn(2, count, CHANNELS, TARGET, SIDE, SIDE)
    times, text = 1000 * torch.rand(count), torch.randn(count, WORDS, TEXT)

    def library(reference, target, times, text):
        tokens = times[:, None].expand(count, TARGET * SIDE * SIDE)
        tokens = torch.cat([torch.zeros(count, REFERENCE * SIDE * SIDE), tokens], 1)
        given = torch.cat([reference, target], 2)
        return model(given, tokens, text, return_dict=False)[0][:, :, REFERENCE:]

    def autocast(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return library(*given)

    def products(q, k, v):
        weights = torch.softmax(torch.matmul(q * HEAD**-0.5, k.transpose(2, 3)), -1)
        return torch.matmul(weights, v)

    trained, forward = model, {"library": library, "autocast": autocast}.get(options.worker)
    if forward is None:
        import copy

        # Every weight, those that the library keeps in f32 as well.
        trained = copy.deepcopy(model)
        for value in trained.parameters():
            value.data = value.data.to(torch.bfloat16)
        attend = products if options.worker == "streams" else F.scaled_dot_product_attention
        forward = streams(torch, trained, attend)
        with torch.no_grad():
            given = reference, target, times, text
            exact, other = library(*given), forward(*given)
            error = ((other - exact).norm() / exact.norm()).item()
            assert error < 0.05, f"another network: {error}"

    def step():
        for value in trained.parameters():
            value.grad = None
        loss = ((forward(reference, target, times, text) - noise) ** 2).mean()
        loss.backward()
        return loss.item()

    step()
    taken = []
    for _ in range(4):
        begun = time.process_time()
        step()
        taken.append(time.process_time() - begun)
    print(count / statistics.median(taken))


def theirs(options, form):
    words = [sys.executable, __file__, options.program, "--worker", form]
    words += ["--samples", options.samples, "--threads", options.threads]
    words = [str(word) for word in words]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--worker", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    try:
        import diffusers
        import torch
    except ImportError as missing:
        print(f"skipped: {missing}")
        return
    print(f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, "
          f"{options.threads} threads, {options.samples} samples of {TOKENS} tokens")  # fmt: skip
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        for _ in range(options.rounds):
            for precision in ("f32", "bf16"):
                own = figures.setdefault(f"anyid-rt, {precision}", [])
                own.append(ours(options, folder, precision))
            for form in options.forms:
                figures.setdefault(form, []).append(theirs(options, form))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, values in figures.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name}: {medians[name]:.1f} samples a processor second ({each})")
    best = max(medians[form] for form in options.forms)
    for name in (name for name in medians if name not in FORMS):
        print(f"ratio, {name}: {medians[name] / best:.2f}")


if __name__ == "__main__":
    main()
