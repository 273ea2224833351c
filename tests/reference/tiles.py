"""Writes what diffusers' tiled autoencoder makes: fixtures_extra/tiles.

    python tests/reference/tiles.py

The autoencoder is that of fixtures/pipeline/base. Tiles have 192x192 pixels (12x12 latents) and
overlap by 64. A pixel of `coarse` is 8x8 of the video. The pictures are as long as whole tiles cover, but diffusers begins one more tile
behind the last, whose pixels all lie in the overlap; what that changes is left out when the values
are compared, and so are the corners where four tiles meet, which diffusers mixes one axis after the
other. Only some rows and columns of pixels are stored.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from common import Random, versions
from vae import normalised, statistics

TESTS = Path(__file__).resolve().parent.parent
FOLDER = TESTS / "fixtures_extra" / "tiles"
SEED = 20261130
TILE, STRIDE = 192, 128
# Latent rows and columns, and frames.
CASES = {"across": (12, 28, 5), "down": (20, 12, 5), "both": (20, 28, 1)}
# Every so many rows and columns of pixels.
STEPS = (7, 5)


@torch.no_grad()
def main():
    model = AutoencoderKLWan.from_pretrained(TESTS / "fixtures/pipeline/base/vae").eval()
    # Our decoder ends with the clamp, which is behind the mixing of tiles there.
    model.decoder.register_forward_hook(lambda module, given, pixels: pixels.clamp(-1, 1))
    inputs, expected = {}, {}
    for case, (rows, columns, frames) in CASES.items():
        random = Random(SEED, "tiles", case)
        z = random.normal("z", (1, 48, 1 + (frames - 1) // 4, rows, columns), 0.5)
        mean, std = statistics(model, z.dtype)
        coarse = random.uniform("video", (1, 3, frames, 2 * rows, 2 * columns), -1.0, 1.0)
        video = coarse.repeat_interleave(8, 3).repeat_interleave(8, 4)
        for tiled in [False, True]:
            # An axis that is as long as a tile has one only if the next would begin behind it.
            down, across = (TILE if side == TILE // 16 else STRIDE for side in (rows, columns))
            if tiled:
                model.enable_tiling(TILE, TILE, down, across)
            decoded = model.decode(z * std + mean).sample
            if tiled:
                # Its encoder counts tiles in folded pixels.
                model.enable_tiling(TILE // 2, TILE // 2, down // 2, across // 2)
            latent = normalised(model, model.encode(video).latent_dist.mode())
            model.use_tiling = False
            name = "tiled" if tiled else "whole"
            expected[f"{case}.{name}.decoded"] = decoded[0, :, :, :: STEPS[0], :: STEPS[1]]
            expected[f"{case}.{name}.latent"] = latent[0]
        inputs[f"{case}.z"] = z[0]
        inputs[f"{case}.coarse"] = coarse[0]
    FOLDER.mkdir(exist_ok=True)
    contiguous = lambda tensors: {name: t.contiguous() for name, t in tensors.items()}
    save_file(contiguous(inputs), FOLDER / "inputs.safetensors")
    save_file(contiguous(expected), FOLDER / "expected.safetensors")
    meta = {"tile": TILE, "stride": STRIDE, "steps": STEPS, "seed": SEED, "versions": versions()}
    (FOLDER / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    for case in CASES:
        for what in ["decoded", "latent"]:
            whole, tiled = (expected[f"{case}.{name}.{what}"] for name in ["whole", "tiled"])
            difference = (whole - tiled).abs()
            print(case, what, "largest", whole.abs().max().item(), "difference of tiles",
                  difference.max().item(), "mean", difference.mean().item())


main()
