"""Compares a clip that we make with the built-in model with the one that diffusers makes.

    anyid-rt init model
    python built_in.py ANYID_RT model

The folder is loaded strictly by the classes of diffusers and transformers, and the loop of
`pipeline.py` runs on references of `examples/characters`, from the noise that our program is given.
Everything is computed in float32. Prints how far latents and frames are apart; the exit code is 1 if
the latents differ by more than 1e-3 of the largest one, or a frame by more than two levels of 255.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import UMT5EncoderModel

import text
import vae
from common import read_json, strictly

CHARACTERS = Path(__file__).resolve().parents[2] / "examples" / "characters"
REFERENCES = ["first/portrait.png", "first/face.png"]
PROMPT = "A close-up shot. The face is smiling. The head turns left. The background is a blue sky."


def pixels(path):
    """A picture as the networks take it, [1,3,1,H,W] in [-1,1]."""
    picture = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float()
    return (picture / 127.5 - 1.0).permute(2, 0, 1)[None, :, None]


def ours(program, folder, noise, scratch):
    """Latents and frames that our program makes."""
    save_file({"noise": noise[0].contiguous()}, scratch / "noise.safetensors")
    references = [str(CHARACTERS / name) for name in REFERENCES]
    command = [program, "generate", "--model", str(folder), "--ref", *references, "--prompt", PROMPT]
    command += ["--noise", str(scratch / "noise.safetensors"), "-o", str(scratch / "frames"), "-q"]
    command += ["--save-latents", str(scratch / "latents.safetensors"), "--precision", "f32"]
    subprocess.run(command, check=True)
    frames = sorted((scratch / "frames").glob("*.png"))
    frames = np.stack([np.array(Image.open(path).convert("RGB")) for path in frames])
    return load_file(scratch / "latents.safetensors")["latents"], frames


@torch.no_grad()
def theirs(folder, noise):
    """Latents and frames of the libraries."""
    classes = {
        "transformer": WanTransformer3DModel,
        "vae": AutoencoderKLWan,
        "text_encoder": UMT5EncoderModel,
    }
    model = {
        part: strictly(
            owner.from_pretrained(folder / part, output_loading_info=True)
        ).float()
        for part, owner in classes.items()
    }
    config = read_json(folder / "transformer" / "config.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    embeds = []
    for prompt in [PROMPT, ""]:
        ids, mask = text.padded(tokenizer, [prompt], config["text_len"])
        embeds.append(text.embeddings(model["text_encoder"], ids, mask))
    branches = ([], [])
    for name in REFERENCES:
        video = pixels(CHARACTERS / name)
        for branch, seen in zip(branches, [video, torch.full_like(video, -1.0)]):
            mean = model["vae"].encode(seen).latent_dist.mode()
            branch.append(vae.normalised(model["vae"], mean))
    scheduler = UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(config["sample_steps"])
    latents = noise
    _, rows, columns = config["patch_size"]
    for timestep in scheduler.timesteps:
        velocities = []
        for references, rows_of_text in zip(branches, embeds):
            joined = torch.cat([*references, latents], dim=2)
            still = joined.shape[2] - latents.shape[2]
            tokens = joined.shape[3] // rows * (joined.shape[4] // columns)
            times = torch.full((1, joined.shape[2] * tokens), float(timestep))
            times[:, : still * tokens] = 0
            out = model["transformer"](joined, times, rows_of_text, return_dict=False)[0]
            velocities.append(out[:, :, still:])
        conditional, unconditional = velocities
        guided = unconditional + config["sample_guidance"] * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    mean, std = vae.statistics(model["vae"], latents.dtype)
    video = model["vae"].decode(latents / (1.0 / std) + mean).sample.clamp(-1, 1)
    frames = ((video[0].permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
    return latents[0], frames


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    noise = torch.randn((1, 24, 2, 6, 6), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as scratch:
        own_latents, own_frames = ours(program, folder, noise, Path(scratch))
    latents, frames = theirs(folder, noise)
    apart = ((own_latents - latents).abs().max() / latents.abs().max()).item()
    levels = int(np.abs(own_frames.astype(int) - frames.astype(int)).max())
    print(f"latents differ by {apart:.2g} of the largest, frames by {levels} of 255")
    sys.exit(apart > 1e-3 or levels > 2)


if __name__ == "__main__":
    main()
