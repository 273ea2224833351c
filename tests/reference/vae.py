"""Cases of AutoencoderKLWan: encode and decode of clips of several lengths."""

import torch
from diffusers import AutoencoderKLWan

from common import Random, fan_in, fill, hooks, load, save, strictly

KIND = "vae"

CASES = {
    # Another width in every level, one of which doubles and one of which halves it.
    "wide": dict(
        base_dim=9, decoder_base_dim=12, z_dim=16, dim_mult=[1, 2, 1, 1], num_res_blocks=2,
        frames=[1, 5, 13], height=32, width=64, batch=1, tap_frames=[1],
    ),
    "blocks1": dict(
        base_dim=4, decoder_base_dim=4, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
        frames=[1, 5], height=32, width=32, batch=1, tap_frames=[5],
    ),
    # Three levels that all halve time: 8 pixels and 4 frames a latent.
    "levels3": dict(
        base_dim=6, decoder_base_dim=6, z_dim=8, dim_mult=[1, 2, 2], num_res_blocks=1,
        temporal=[True, True], frames=[1, 5], height=32, width=24, batch=1, tap_frames=[1, 5],
    ),
    # As Wan2.1: no shortcuts around levels, no patches; here 4 pixels and 2 frames a latent.
    "plain": dict(
        base_dim=6, decoder_base_dim=8, z_dim=6, dim_mult=[1, 2, 2], num_res_blocks=1,
        temporal=[False, True], residual=False, patch=None, frames=[1, 5], height=16, width=24,
        batch=1, tap_frames=[1],
    ),
    # No level halves time, and pixel patches are large: 8 pixels and 1 frame a latent.
    "still": dict(
        base_dim=6, decoder_base_dim=6, z_dim=8, dim_mult=[2, 1], num_res_blocks=2,
        temporal=[False], patch=4, frames=[1, 5], height=32, width=16, batch=1, tap_frames=[1],
    ),
}  # fmt: skip

SIZES = ["base_dim", "decoder_base_dim", "z_dim", "dim_mult", "num_res_blocks"]
STRUCTURE = {"temporal": [False, True, True], "residual": True, "patch": 2}


def structure(settings):
    """What is the same in most cases, with what a case says."""
    return {name: settings.get(name, usual) for name, usual in STRUCTURE.items()}


def factors(settings):
    """Frames and pixels of a latent."""
    made = structure(settings)
    pixels = (made["patch"] or 1) * 2 ** (len(settings["dim_mult"]) - 1)
    return 2 ** sum(made["temporal"]), pixels


def build(
    random, *, base_dim, decoder_base_dim, z_dim, dim_mult, num_res_blocks, temporal, residual, patch
):
    """An autoencoder with random weights in which no path is at zero."""
    time, space = factors({"dim_mult": dim_mult, "temporal": temporal, "patch": patch})
    channels = 3 * (patch or 1) ** 2

    def decimals(values):
        return [round(value, 4) for value in values.tolist()]

    model = AutoencoderKLWan(
        base_dim=base_dim,
        decoder_base_dim=decoder_base_dim,
        z_dim=z_dim,
        dim_mult=dim_mult,
        num_res_blocks=num_res_blocks,
        attn_scales=[],
        temperal_downsample=temporal,
        dropout=0.0,
        latents_mean=decimals(random.normal("latents_mean", (z_dim,), 0.3)),
        latents_std=decimals(random.uniform("latents_std", (z_dim,), 0.4, 1.6)),
        is_residual=residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=patch,
        scale_factor_temporal=time,
        scale_factor_spatial=space,
    )

    def rule(name, tensor):
        if name.endswith("gamma"):
            return 0.2, 1.0
        if name.endswith("bias"):
            return 0.1, 0.0
        gain = 1.1
        if name == "decoder.conv_out.weight":
            gain = 0.55  # keeps nearly all pixels away from the clamp
        elif name == "quant_conv.weight":
            gain = 0.75
        elif "to_qkv" in name:
            gain = 1.5
        return gain / fan_in(tensor) ** 0.5, 0.0

    fill(model, random, rule)
    return model.eval()


def statistics(model, dtype):
    """latents_mean and latents_std, each [1,z_dim,1,1,1]."""
    shape = (1, model.config.z_dim, 1, 1, 1)
    mean = torch.tensor(model.config.latents_mean).view(shape).to(dtype)
    std = torch.tensor(model.config.latents_std).view(shape).to(dtype)
    return mean, std


def normalised(model, latents):
    """The latents that the transformer sees: (latents - latents_mean) / latents_std."""
    mean, std = statistics(model, latents.dtype)
    # The product with 1/std is how diffusers' image-to-video pipeline computes it.
    return (latents - mean) * (1.0 / std)


def make(folder, case, settings, seed):
    """Writes weights and inputs of a case."""
    random = Random(seed, KIND, case)
    sizes = {name: settings[name] for name in SIZES}
    build(random, **sizes, **structure(settings)).save_pretrained(folder)
    time, space = factors(settings)
    height, width, batch = settings["height"], settings["width"], settings["batch"]
    inputs = {}
    for n in settings["frames"]:
        video = (batch, 3, n, height, width)
        latent = (batch, settings["z_dim"], 1 + (n - 1) // time, height // space, width // space)
        inputs[f"f{n}.video"] = random.uniform(f"f{n}.video", video, -1.0, 1.0)
        inputs[f"f{n}.z"] = random.normal(f"f{n}.z", latent)
    save(folder / "inputs.safetensors", inputs)


def read(folder, settings):
    """The model and the inputs of a case folder."""
    model = AutoencoderKLWan.from_pretrained(folder, output_loading_info=True)
    return strictly(model), load(folder / "inputs.safetensors")


def tapped_modules(model):
    """Name and module of every intermediate value, without the side and the chunk."""
    encoder, decoder = model.encoder, model.decoder
    for side, part in [("enc", encoder), ("dec", decoder)]:
        yield f"{side}.conv_in", part.conv_in
        yield f"{side}.mid.resnet0", part.mid_block.resnets[0]
        yield f"{side}.mid.attn", part.mid_block.attentions[0]
        yield f"{side}.mid", part.mid_block
        yield f"{side}.conv_out", part.conv_out
    ladders = [("enc", "down", encoder.down_blocks), ("dec", "up", decoder.up_blocks)]
    for side, word, blocks in ladders:
        if not model.config.is_residual and side == "enc":
            # Everything in the levels lies in one row; a level ends with its sampling.
            each = model.config.num_res_blocks + 1
            blocks = [*blocks[each - 1 :: each], blocks[-1]]
        for i, block in enumerate(blocks):
            yield f"{side}.{word}{i}", block
            # The last level neither samples up nor down: its skip is none, or a plain average.
            if i + 1 < len(blocks) and model.config.is_residual:
                yield f"{side}.{word}{i}.shortcut", block.avg_shortcut


@torch.no_grad()
def expected(model, inputs, settings, dtype=torch.float32):
    """Latents, decoded pixels and intermediate values for each clip length."""
    model = model.to(dtype)
    frames = settings["frames"]
    tapped = settings.get("tap_frames", [frames[0], frames[-1]] if settings.get("taps") else [])
    found = {}
    for n in frames:

        def keep(name):
            chunks = []

            def receive(value):
                found[f"f{n}.{name}.chunk{len(chunks)}"] = value.clone()
                chunks.append(name)

            return receive

        video, z = inputs[f"f{n}.video"].to(dtype), inputs[f"f{n}.z"].to(dtype)
        with hooks() as taps:
            if n in tapped:
                for name, module in tapped_modules(model):
                    taps.output(module, keep(name))
            posterior = model.encode(video).latent_dist
            found[f"f{n}.decoded"] = model.decode(z).sample
        found[f"f{n}.moments"] = posterior.parameters
        found[f"f{n}.mean"] = posterior.mode()
        found[f"f{n}.latent"] = normalised(model, posterior.mode())
    return found


def remarks(model, inputs, found, settings):
    """Figures for meta.json beside the errors."""
    shares = {
        f"f{n}.decoded": round((found[f"f{n}.decoded"].abs() == 1).double().mean().item(), 4)
        for n in settings["frames"]
    }
    return {"share_of_decoded_pixels_at_the_clamp": shares}
