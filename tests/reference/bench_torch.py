"""Times PyTorch on the shapes that matter here, for comparison with our kernels.

    python bench_torch.py --threads 2 [--mode eager compile] [--only linear attention] [--smoke]

Prints one JSON object per line: name, mode (eager or compile), dtype, threads, repeats, the median
of the seconds of one call, and gflops = 1e-9 * floating-point operations / seconds. A product of
M x K by K x N counts 2*M*K*N operations; softmax, norms and activations count nothing. Where
torch.compile does not work, the line has `error` in place of the figures. `--smoke` shrinks every
size, to try the script itself: its names begin with smoke_ and its figures mean nothing.
"""

import argparse
import gc
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def values(*shape, dtype):
    """Random input of variance 1."""
    return torch.randn(*shape).to(dtype)


def linear(m, k, n):
    """x [m,k] times weight [n,k] transposed, plus bias."""

    def build(dtype):
        shapes = [(m, k), (n, k), (n,)]
        return F.linear, [values(*shape, dtype=dtype) for shape in shapes]

    return build, 2 * m * k * n


def attention(heads, tokens, channels):
    """Attention without mask over `tokens` queries and keys."""

    def build(dtype):
        shape = (1, heads, tokens, channels)
        return F.scaled_dot_product_attention, [values(*shape, dtype=dtype) for _ in range(3)]

    return build, 4 * heads * tokens * tokens * channels


def convolution(channels, frames, height, width):
    """3x3x3 convolution that keeps the size."""

    def build(dtype):
        x = values(1, channels, frames, height, width, dtype=dtype)
        weight = values(channels, channels, 3, 3, 3, dtype=dtype)
        return lambda x, weight: F.conv3d(x, weight, padding=1), (x, weight)

    return build, 2 * 27 * channels * channels * frames * height * width


def transformer(heads, head_dim, ffn, layers, frames, height, width, text_len, text_dim):
    """Forward of diffusers' transformer with a timestep per token; latent sizes."""
    dim, tokens = heads * head_dim, frames * (height // 2) * (width // 2)

    def build(dtype):
        from diffusers import WanTransformer3DModel
        from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

        with torch.device("meta"):
            model = WanTransformer3DModel(
                num_attention_heads=heads,
                attention_head_dim=head_dim,
                in_channels=48,
                out_channels=48,
                text_dim=text_dim,
                ffn_dim=ffn,
                num_layers=layers,
            )
        kept = model._keep_in_fp32_modules
        for name, parameter in model.named_parameters():
            wide = any(part in name.split(".") for part in kept)
            parameter.data = parameter.data.to(torch.float32 if wide else dtype)
        model = model.to_empty(device="cpu").eval()
        # The tables are not parameters: they are made anew.
        model.rope = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.02)
        latents = values(1, 48, frames, height, width, dtype=dtype)
        timestep = torch.full((1, tokens), 500.0)
        text = values(1, text_len, text_dim, dtype=dtype)

        def run(latents, timestep, text):
            return model(latents, timestep, text, return_dict=False)[0]

        return run, (latents, timestep, text)

    own = 8 * tokens * dim * dim + 4 * tokens * tokens * dim
    cross = 4 * (tokens + text_len) * dim * dim + 4 * tokens * text_len * dim
    forward = 4 * tokens * dim * ffn
    conditions = 12 * tokens * dim * dim + 2 * text_len * dim * (text_dim + dim)
    return build, layers * (own + cross + forward) + conditions


def cases(smoke):
    """Name, dtypes, and (build, operations) of every case."""
    small = 8 if smoke else 1
    both = ["f32", "bf16"]

    def sized(*sizes):
        return [size // small for size in sizes]

    m, k, n = sized(2048, 3072, 14336)
    yield "linear_2048x3072x14336", both, linear(m, k, n)
    m, k, n = sized(1024, 3072, 3072)
    yield "linear_1024x3072x3072", both, linear(m, k, n)
    for tokens in [4096, 1024]:
        yield f"attention_24x{tokens}x128", both, attention(24 // small, tokens // small, 128)
    yield "conv3d_3x3x3_256_4x64x64", both, convolution(256 // small, 4, *sized(64, 64))
    sizes = dict(heads=24, head_dim=128, ffn=14336, text_len=512, text_dim=4096)
    if smoke:
        sizes = dict(heads=2, head_dim=32, ffn=256, text_len=16, text_dim=64)
    yield "dit_4_layers_320_tokens", ["bf16"], transformer(
        **sizes, layers=4, frames=4, height=16, width=20
    )


def measure(function, arguments, warmup, repeats):
    """Median of the seconds of one call."""
    for _ in range(warmup):
        function(*arguments)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    modes = ["eager", "compile"]
    parser.add_argument("--mode", nargs="+", choices=modes, default=modes)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of case names")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; figures mean nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name, dtypes, (build, operations) in cases(options.smoke):
        if options.only and not name.startswith(tuple(options.only)):
            continue
        for dtype in dtypes:
            function, arguments = build(DTYPES[dtype])
            for mode in options.mode:
                line = {
                    "name": f"smoke_{name}" if options.smoke else name,
                    "mode": mode,
                    "dtype": dtype,
                    "threads": options.threads,
                    "repeats": options.repeats,
                }
                # A first call at least, outside the timing, compiles.
                warmup = max(options.warmup, 1 if mode == "compile" else 0)
                try:
                    with torch.inference_mode():
                        called = torch.compile(function) if mode == "compile" else function
                        median = measure(called, arguments, warmup, options.repeats)
                    line["seconds"] = float(f"{median:.6g}")
                    line["gflops"] = float(f"{operations / median / 1e9:.4g}")
                except Exception as fault:  # the compiler may be missing or refuse
                    line["error"] = f"{type(fault).__name__}: {str(fault).splitlines()[0][:200]}"
                print(json.dumps(line), flush=True)
            torch._dynamo.reset()
            del function, arguments
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
