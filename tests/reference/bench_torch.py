"""Times PyTorch on the shapes that matter here, for comparison with our kernels and networks.

    python bench_torch.py --threads 2 [--mode eager compile] [--only linear attention]
        [--dtype f32 bf16] [--limit 60] [--smoke]

Prints one JSON object per line: name, mode (eager or compile), dtype, threads, repeats, the median
of the seconds of one call, `cpu_seconds`, the average of its processor time over all threads, and
gflops = 1e-9 * floating-point operations / seconds. A product of M x K by K x N counts 2*M*K*N
operations; softmax, norms and activations count nothing, and neither does the autoencoder, whose
lines have no gflops. `start_bytes` is the most memory the process held
before the case was made and `peak_bytes` the most it held up to the end of it: figures of a case by
itself where it runs in a process of its own (`--only`, one `--dtype`, one `--mode`). Where
torch.compile does not work, the line has `error` in place of the figures. `--limit` is about how
many seconds the timed calls of a line may take together; one is always made. `--smoke` shrinks
every size, to try the script itself: its names begin with smoke_ and its figures mean nothing.
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


def peak_memory():
    """Most bytes this process has held, where the system tells."""
    try:
        with open("/proc/self/status") as status:
            lines = [line for line in status if line.startswith("VmHWM:")]
    except OSError:
        return None
    return int(lines[0].split()[1]) * 1024 if lines else None


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


def filled(model, dtype, wide=()):
    """A model made without memory, with random weights of `dtype`; parts named in `wide` are f32."""
    for name, parameter in model.named_parameters():
        single = any(part in name.split(".") for part in wide)
        parameter.data = parameter.data.to(torch.float32 if single else dtype)
    model = model.to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(1.0)
        elif parameter.ndim > 1 and "table" not in name:
            parameter.data.normal_(0.0, parameter[0].numel() ** -0.5)
        else:
            parameter.data.normal_(0.0, 0.02)
    return model


def block_operations(heads, head_dim, ffn, tokens, text_len, **_):
    """Operations of the matrices over the tokens, of those over the text, and of attention."""
    dim = heads * head_dim
    matrices = 12 * tokens * dim * dim + 4 * tokens * dim * ffn
    text = 4 * text_len * dim * dim
    return matrices, text, 4 * tokens * (tokens + text_len) * dim


def block(heads, head_dim, ffn, tokens, text_len, rank=0, **_):
    """A block of diffusers' transformer by itself, with modulation for each token (Wan2.2 5B). With a
    rank all its matrices have adapters by peft, and it is run forward and backward: derivatives by the
    adapters and by the residual stream, as our plan of it gives them."""
    dim = heads * head_dim

    def build(dtype):
        from diffusers import WanTransformer3DModel
        from diffusers.models.transformers.transformer_wan import WanTransformerBlock

        with torch.device("meta"):
            model = WanTransformerBlock(dim, ffn, heads, cross_attn_norm=True)
        model = filled(model, dtype, WanTransformer3DModel._keep_in_fp32_modules)
        x = values(1, tokens, dim, dtype=dtype)
        text = values(1, text_len, dim, dtype=dtype)
        # As the model computes it: one row of six for each token, in the type of the latents.
        modulation = values(1, tokens, 6, dim, dtype=dtype)
        angles = torch.randn(1, tokens, 1, head_dim // 2).repeat_interleave(2, dim=-1)
        rotary = (angles.cos(), angles.sin())

        def run(x, text, modulation, cos, sin):
            return model(x, text, modulation, (cos, sin))

        if rank == 0:
            return run, (x, text, modulation, *rotary)
        from peft import LoraConfig, inject_adapter_in_model

        targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
        adapters = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
        model.requires_grad_(False)
        model = inject_adapter_in_model(adapters, model).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(trained) == 20, "two matrices for each of ten"
        for parameter in trained:
            parameter.data.normal_(0.0, 0.02)
        x.requires_grad_(True)
        cotangent = values(1, tokens, dim, dtype=dtype)

        def train(x, text, modulation, cos, sin, cotangent):
            made = run(x, text, modulation, cos, sin)
            return torch.autograd.grad(made, [x, *trained], cotangent.to(made.dtype))

        return train, (x, text, modulation, *rotary, cotangent)

    matrices, text, attention = block_operations(heads, head_dim, ffn, tokens, text_len)
    if rank == 0:
        return build, matrices + text + attention
    # Adapters of attention and feed-forward forward, and twice as much back; the text has no derivative,
    # and back attention takes five products for two.
    wide = 2 * rank * (tokens * (12 * dim + 2 * (dim + ffn)) + text_len * 4 * dim)
    return build, 2 * matrices + text + 3 * wide + 7 * attention // 2


def autoencoder(direction, frames, side, base_dim, decoder_base_dim):
    """One half of diffusers' autoencoder of Wan2.2 on a square clip; the other half is dropped."""

    def build(dtype):
        from diffusers import AutoencoderKLWan

        with torch.device("meta"):
            model = AutoencoderKLWan(
                base_dim=base_dim,
                decoder_base_dim=decoder_base_dim,
                z_dim=48,
                dim_mult=[1, 2, 4, 4],
                num_res_blocks=2,
                attn_scales=[],
                temperal_downsample=[False, True, True],
                latents_mean=[0.0] * 48,
                latents_std=[1.0] * 48,
                is_residual=True,
                in_channels=12,
                out_channels=12,
                patch_size=2,
                scale_factor_temporal=4,
                scale_factor_spatial=16,
            )
        if direction == "encode":
            model.decoder = model.post_quant_conv = None
        else:
            model.encoder = model.quant_conv = None
        model = filled(model, dtype)
        if direction == "encode":
            clip = torch.rand(1, 3, frames, side, side).mul_(2).sub_(1).to(dtype)
            return lambda clip: model.encode(clip).latent_dist.mode(), (clip,)
        latents = values(1, 48, 1 + (frames - 1) // 4, side // 16, side // 16, dtype=dtype)
        return lambda latents: model.decode(latents, return_dict=False)[0], (latents,)

    return build, None


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
        model = filled(model, dtype, model._keep_in_fp32_modules)
        # The tables are not parameters: they are made anew.
        model.rope = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
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
    for tokens in [1024, 4096]:
        yield f"dit_block_{tokens}_tokens", both, block(**sizes, tokens=tokens // small)
    rank = 128 // small
    yield "lora_block_1024_tokens", both, block(**sizes, tokens=1024 // small, rank=rank)
    yield "dit_4_layers_320_tokens", both, transformer(
        **sizes, layers=4, frames=4, height=16, width=20
    )
    side, widths = (32, (16, 16)) if smoke else (256, (160, 256))
    for direction, frames in [("decode", 1), ("decode", 5), ("encode", 1), ("encode", 5)]:
        name = f"vae_{direction}_{frames}_frames"
        yield name, both, autoencoder(direction, frames, side, *widths)


def measure(function, arguments, warmup, repeats, limit):
    """Seconds of each call: `repeats` of them, or as many as `limit` seconds hold; and the average of
    their processor time."""
    for _ in range(warmup):
        function(*arguments)
    seconds, begun = [], time.process_time()
    while len(seconds) < repeats and (not seconds or sum(seconds) + seconds[-1] < limit):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return seconds, (time.process_time() - begun) / len(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    modes = ["eager", "compile"]
    parser.add_argument("--mode", nargs="+", choices=modes, default=modes)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of case names")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for the timed calls")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; figures mean nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    chosen = [
        case
        for case in cases(options.smoke)
        if not options.only or case[0].startswith(tuple(options.only))
    ]
    if any(name.startswith(("dit", "vae", "lora")) for name, _, _ in chosen):
        # What the library itself holds is no memory of a case.
        from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: F401
    for name, dtypes, (build, operations) in chosen:
        for dtype in dtypes:
            if dtype not in options.dtype:
                continue
            start = peak_memory()
            function, arguments = build(DTYPES[dtype])
            for mode in options.mode:
                line = {
                    "name": f"smoke_{name}" if options.smoke else name,
                    "mode": mode,
                    "dtype": dtype,
                    "threads": options.threads,
                }
                # A first call at least, outside the timing, compiles.
                warmup = max(options.warmup, 1 if mode == "compile" else 0)
                try:
                    with torch.inference_mode(not name.startswith("lora")):
                        called = torch.compile(function) if mode == "compile" else function
                        times, processor = measure(
                            called, arguments, warmup, options.repeats, options.limit
                        )
                    median = statistics.median(times)
                    line["repeats"] = len(times)
                    line["seconds"] = float(f"{median:.6g}")
                    line["cpu_seconds"] = float(f"{processor:.6g}")
                    if operations:
                        line["gflops"] = float(f"{operations / median / 1e9:.4g}")
                    line["start_bytes"], line["peak_bytes"] = start, peak_memory()
                except Exception as fault:  # the compiler may be missing or refuse
                    line["error"] = f"{type(fault).__name__}: {str(fault).splitlines()[0][:200]}"
                print(json.dumps(line), flush=True)
            torch._dynamo.reset()
            del function, arguments
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
