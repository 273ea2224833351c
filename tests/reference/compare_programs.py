"""Whole runs of anyid-rt, stable-diffusion.cpp and diffusers on the same files and machine: time and memory.

    python compare_programs.py --program ../../target/release/anyid-rt --sd sd-cli --folder DIR
        [--size 256x256] [--frames 5] [--steps 2] [--threads 2] [--only NAME …] [--keep]

Files of the shapes of Wan2.2-TI2V-5B are made in the folder: transformer and text encoder in bf16 (safetensors) and
Q8_0 (GGUF, by `anyid-rt convert`), the autoencoder in bf16 in the original's naming. The transformer in GGUF
and the autoencoder have random values; what else is large is zeros in sparse files, which take no room on the
disk: no kernel of the three looks at values. Everything is removed at the end unless `--keep` is given.

Each program makes the same video from a prompt, with guidance (two evaluations a step) and Euler's solver, in a process
of its own. Measured are the seconds of the clock and of the processor until a program says that a part is done, and the
most memory that it held (pages of mapped files count). Where other work shares the machine, the seconds of the
processor on one thread (`--threads 1`) are what can be compared: threads that wait for each other may spin.

diffusers reads no text encoder from GGUF: it is given embeddings, and says no time for text. It does not read this
autoencoder from a single file either, and gets the same values in a folder. Needs `pip install gguf` besides, and
`sd-cli`, which the source distribution of the package stable-diffusion-cpp-python builds
(vendor/stable-diffusion.cpp, SD_BUILD_EXAMPLES=ON). Prints a Markdown table.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

PROMPT = "a person in a café"
LEVELS = 4


def note(text):
    print(text, file=sys.stderr, flush=True)


# ---- Files ----


def configs():
    """Configurations of the three networks, as the published folder has them."""
    transformer = {
        "_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": 24,
        "attention_head_dim": 128, "in_channels": 48, "out_channels": 48, "text_dim": 4096, "freq_dim": 256,
        "ffn_dim": 14336, "num_layers": 30, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6, "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }
    vae = {
        "_class_name": "AutoencoderKLWan", "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48,
        "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0,
        "temperal_downsample": [False, True, True], "in_channels": 12, "out_channels": 12, "is_residual": True,
        "patch_size": 2, "scale_factor_spatial": 16, "scale_factor_temporal": 4,
        "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
    }
    text = {
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "d_model": 4096, "d_kv": 64, "d_ff": 10240,
        "num_layers": 24, "num_heads": 64, "vocab_size": 256384, "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6, "is_encoder_decoder": False, "use_cache": False,
    }
    return transformer, vae, text


def shapes():
    """Names and shapes of the three networks, by the real classes."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    transformer, vae, text = configs()
    with torch.device("meta"):
        nets = [
            WanTransformer3DModel.from_config(transformer),
            AutoencoderKLWan.from_config(vae),
            UMT5EncoderModel(UMT5Config(**text)),
        ]
    found = [{name: list(t.shape) for name, t in net.state_dict().items()} for net in nets]
    found[2].pop("encoder.embed_tokens.weight", None)
    return found


def original_vae(name):
    """The original's name of a tensor of diffusers' autoencoder."""
    for new, old in [("quant_conv", "conv1"), ("post_quant_conv", "conv2")]:
        if name.startswith(new + "."):
            return old + name[len(new):]
    side, rest = name.split(".", 1)
    ends = {"conv_in": "conv1", "conv_out": "head.2", "norm_out": "head.0",
            "mid_block.attentions.0": "middle.1", "mid_block.resnets.0": "middle.0",
            "mid_block.resnets.1": "middle.2"}
    inner = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
             "conv_shortcut": "shortcut"}
    level = r"(?:down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(downsampler|upsampler))\.(.*)"
    if found := re.match(level, rest):
        block, number, resample, tail = found.groups()
        ups = "upsamples" if side == "decoder" else "downsamples"
        if resample:
            number = LEVELS - 1 if side == "decoder" else LEVELS - 2
        else:
            head, _, last = tail.rpartition(".")
            tail = f"{inner[head]}.{last}"
        return f"{side}.{ups}.{block}.{ups}.{number}.{tail}"
    for new, old in ends.items():
        if rest.startswith(new + "."):
            tail = rest[len(new) + 1:]
            if "resnets" in new:
                head, _, last = tail.rpartition(".")
                tail = f"{inner[head]}.{last}"
            return f"{side}.{old}.{tail}"
    raise SystemExit(f"{name}: no name of the original")


def write(path, tensors, values):
    """A safetensors file in bf16; `values` gives the bytes of a tensor, or nothing for a hole."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        file.truncate(begin + at)
        for name, shape in tensors.items():
            if (data := values(name, shape)) is not None:
                file.seek(begin + header[name]["data_offsets"][0])
                file.write(data)


def small_values(name, shape):
    """Ones for norms; the rest is zeros."""
    import torch

    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    return None


def vae_values(name, shape):
    """Random values with which numbers keep their size."""
    import torch

    if "gamma" in name:
        values = torch.ones(shape)
    elif name.endswith("bias"):
        return None
    else:
        fan_in = 1
        for side in shape[1:]:
            fan_in *= side
        values = torch.randn(shape, generator=torch.Generator().manual_seed(1)) / fan_in**0.5
    return values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def fill_blocks(path):
    """Puts random values into the blocks of Q8_0 of a GGUF file."""
    import gguf
    import numpy

    draws = numpy.random.default_rng(1)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            rows = tensor.data.reshape(-1, 34)
            scale = numpy.float16(1 / 73 / int(tensor.shape[0]) ** 0.5)
            rows[:, :2] = numpy.frombuffer(scale.tobytes(), numpy.uint8)
            pattern = draws.integers(0, 256, (4099, 32), numpy.uint8)
            for begin in range(0, len(rows), len(pattern)):
                part = rows[begin:begin + len(pattern)]
                part[:, 2:] = pattern[:len(part)]


def make(options, folder):
    """The files, unless they are there."""
    paths = {
        "transformer": folder / "transformer" / "diffusion_pytorch_model.safetensors",
        "text": folder / "text_encoder" / "model.safetensors",
        "vae": folder / "wan2.2_vae.safetensors",
        "transformer_q8": folder / "transformer-Q8_0.gguf",
        "text_q8": folder / "umt5-Q8_0.gguf",
        "tokenizer": folder / "micro" / "tokenizer" / "tokenizer.json",
    }
    if (folder / "complete").exists():
        return paths
    transformer, vae, text = shapes()
    for name, config in zip(["transformer", "vae", "text_encoder"], configs()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    write(paths["transformer"], transformer, small_values)
    write(paths["text"], text, small_values)
    write(paths["vae"], {original_vae(name): shape for name, shape in vae.items()}, vae_values)
    write(folder / "vae" / "diffusion_pytorch_model.safetensors", vae, vae_values)
    program = [options.program]
    run = lambda words: subprocess.run([*program, *map(str, words)], check=True, stdout=sys.stderr)
    run(["init", folder / "micro", "--random-weights"])
    run(["convert", paths["transformer"], "--to", "q8_0", "-o", paths["transformer_q8"]])
    fill_blocks(paths["transformer_q8"])
    run(["convert", paths["text"], "--to", "q8_0", "--part", "text-encoder", "--tokenizer",
         paths["tokenizer"], "-o", paths["text_q8"]])
    # Its zeros take no room either.
    subprocess.run(["fallocate", "--dig-holes", paths["text_q8"]], check=False)
    (folder / "complete").touch()
    return paths


# ---- Runs ----

PARTS = ["loading", "text", "sampling", "decoding"]


def processor(pid):
    """Seconds of the processor that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(command, ends):
    """Runs a command: seconds, seconds of the processor and most bytes held; and seconds of both kinds for each part,
    whose end is a line with one of the patterns of `ends`."""
    row, said, begun = {part: None for part in PARTS}, [], time.monotonic()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    before = (begun, 0.0)
    for line in child.stdout:
        text = line.decode(errors="replace")
        said.append(text)
        for part, pattern in ends.items():
            if re.search(pattern, text):
                now = (time.monotonic(), processor(child.pid))
                row[part] = [now[0] - before[0], now[1] - before[1]]
                before = now
    _, status, usage = os.wait4(child.pid, 0)
    row.update(seconds=time.monotonic() - begun, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * 1024)
    if status != 0 or any(row[part] is None for part in ends):
        raise RuntimeError(f"{' '.join(map(str, command))}\n{''.join(said)[-4000:]}")
    return row


def ours(options, paths, kind, more=()):
    """anyid-rt on files of a kind; it reads weights in the parts that use them."""
    files = {"q8": ("transformer_q8", "text_q8"), "bf16": ("transformer", "text")}[kind]
    command = [options.program, "-v", "generate", "--transformer", paths[files[0]], "--text-encoder", paths[files[1]],
               "--vae", paths["vae"], "--tokenizer", paths["tokenizer"], "--prompt", PROMPT, "--size", options.size,
               "--frames", options.frames, "--steps", options.steps, "--solver", "euler", "--guidance", 5,
               "--threads", options.threads, "--precision", "bf16", "--force", "-o",
               paths["vae"].with_name("out.gif"), *more]
    return measured(command, {part: f"^{part} took " for part in PARTS[1:]})


def stable_diffusion(options, paths, _):
    """stable-diffusion.cpp, which loads all networks at its start."""
    width, height = options.size.split("x")
    command = [options.sd, "-M", "vid_gen", "--diffusion-model", paths["transformer_q8"], "--t5xxl", paths["text_q8"],
               "--vae", paths["vae"], "-p", PROMPT, "-n", "", "--cfg-scale", 5, "--sampling-method", "euler",
               "--steps", options.steps, "-W", width, "-H", height, "--video-frames", options.frames,
               "--flow-shift", 5, "-t", options.threads, "--diffusion-fa", "-v", "-o",
               paths["vae"].with_name("out.avi")]
    return measured(command, {
        "loading": "loading tensors completed",
        "text": "get_learned_condition completed",
        "sampling": r"\bsampling completed",
        "decoding": "decode_first_stage completed",
    })


def diffusers(options, paths, kind):
    """diffusers, in a process of its own: this file with `--worker`."""
    command = [sys.executable, __file__, "--worker", kind, "--folder", paths["vae"].parent, "--size", options.size,
               "--frames", options.frames, "--steps", options.steps, "--threads", options.threads]
    return measured(command, {part: f"^{part} took" for part in PARTS if part != "text"})


def worker(options):
    """One run of diffusers; says where its parts end."""
    import torch
    from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, GGUFQuantizationConfig,
                           WanPipeline, WanTransformer3DModel)

    torch.set_num_threads(options.threads)
    folder, dtype = pathlib.Path(options.folder), torch.bfloat16
    if options.worker == "q8":
        transformer = WanTransformer3DModel.from_single_file(
            str(folder / "transformer-Q8_0.gguf"), config=str(folder / "transformer"), torch_dtype=dtype,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype))
    else:
        transformer = WanTransformer3DModel.from_pretrained(str(folder / "transformer"), torch_dtype=dtype)
    vae = AutoencoderKLWan.from_pretrained(str(folder / "vae"), torch_dtype=dtype)
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, expand_timesteps=True,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0))
    pipeline.set_progress_bar_config(disable=True)
    width, height = map(int, options.size.split("x"))
    embeds = torch.zeros(1, 512, 4096, dtype=dtype)
    print("loading took", flush=True)
    with torch.no_grad():
        latents = pipeline(
            prompt_embeds=embeds, negative_prompt_embeds=embeds, height=height, width=width,
            num_frames=options.frames, num_inference_steps=options.steps, guidance_scale=5.0,
            output_type="latent").frames
        print("sampling took", flush=True)
        vae.decode(latents.to(dtype))
        print("decoding took", flush=True)


RUNS = {
    "anyid-rt Q8_0": (ours, "q8"),
    "stable-diffusion.cpp Q8_0": (stable_diffusion, "q8"),
    "diffusers Q8_0": (diffusers, "q8"),
    "anyid-rt bf16": (ours, "bf16"),
    "diffusers bf16": (diffusers, "bf16"),
    "anyid-rt bf16 --budget 4GiB": (lambda o, p, k: ours(o, p, k, ["--budget", "4GiB"]), "bf16"),
    "anyid-rt Q8_0 --budget 4GiB": (lambda o, p, k: ours(o, p, k, ["--budget", "4GiB"]), "q8"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program")
    parser.add_argument("--sd")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="rows whose names have one of these words")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--make", action="store_true", help="only make the files")
    parser.add_argument("--json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    folder = pathlib.Path(options.folder).absolute()
    paths = make(options, folder)
    if options.make:
        return None
    rows = {}
    for name, (run, kind) in RUNS.items():
        if options.only and not any(word in name for word in options.only):
            continue
        if run is stable_diffusion and not options.sd:
            continue
        try:
            rows[name] = run(options, paths, kind)
            note(f"{name}: {rows[name]}")
        except RuntimeError as fault:
            note(f"{name} failed: {fault}")
    print("| seconds of the processor (of the clock) | loading | text | sampling | decoding | all | most memory held |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        pairs = [row[part] for part in PARTS] + [[row["seconds"], row["cpu"]]]
        cells = ["" if pair is None else f"{pair[1]:.1f} ({pair[0]:.1f})" for pair in pairs]
        print(f"| {name} | {' | '.join(cells)} | {row['peak'] / 1e9:.1f} GB |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
    if not options.keep:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
