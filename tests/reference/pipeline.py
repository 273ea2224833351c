"""Cases of reference-conditioned sampling end to end, each with a whole model folder.

The loop is the one of diffusers' WanPipeline with references put in front of the target along time:
tokens of the references have timestep 0, and only the target goes through the scheduler. The
unconditional branch has black references and the empty prompt.
"""

import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from transformers import UMT5EncoderModel

import dit
import sched
import text
import vae
from common import Random, error, load, save, strictly, write_json

KIND = "pipeline"

TRANSFORMER = dict(heads=2, head_dim=16, ffn=80, layers=2, text_dim=32, freq_dim=32)
AUTOENCODER = dict(
    base_dim=6, decoder_base_dim=8, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1
)
ENCODER = dict(
    layers=1, heads=2, d_kv=16, d_model=32, d_ff=64, num_buckets=32, max_distance=128
)  # fmt: skip

CASES = {
    "norefs": dict(
        refs=[], frames=5, height=64, width=64, steps=5, guidance=5.0, shift=5.0, text_len=16,
        prompt="A dog runs &amp; jumps over a fence at sunset.", library_run=["t2v.library_latent"],
        transformer=TRANSFORMER, vae=AUTOENCODER, text_encoder=ENCODER, tokenizer="plain",
    ),
    "one": dict(
        refs=[1], frames=1, height=64, width=96, steps=4, guidance=5.0, shift=5.0, text_len=12,
        prompt="Portrait of a woman,  soft light.",
        transformer={**TRANSFORMER, "heads": 1, "head_dim": 48, "layers": 1},
        vae=AUTOENCODER, text_encoder=ENCODER, tokenizer="plain",
    ),
    "five": dict(
        refs=[1, 5, 1, 1, 1], frames=5, height=64, width=64, steps=3, guidance=3.0, shift=3.0,
        text_len=16, prompt="Five friends walk through the rain, handheld camera.",
        transformer=TRANSFORMER, vae={**AUTOENCODER, "num_res_blocks": 2},
        text_encoder=ENCODER, tokenizer="plain",
    ),
}  # fmt: skip


def model_index():
    """The contents of model_index.json."""
    return {
        "_class_name": "WanPipeline",
        "_diffusers_version": diffusers.__version__,
        "boundary_ratio": None,
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def make(folder, case, settings, seed):
    """Writes the model folder and the inputs of a case."""

    def random(part):
        return Random(seed, KIND, f"{case}/{part}")

    write_json(folder / "model_index.json", model_index())
    (folder / "tokenizer").mkdir()
    source = text.TOKENIZERS / settings["tokenizer"] / "tokenizer.json"
    shutil.copyfile(source, folder / "tokenizer" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source))
    encoder = text.build(
        random("text_encoder"), tokenizer.get_vocab_size(), **settings["text_encoder"]
    )
    encoder.save_pretrained(folder / "text_encoder")
    dit.build(random("transformer"), **settings["transformer"]).save_pretrained(
        folder / "transformer"
    )
    vae.build(random("vae"), **settings["vae"]).save_pretrained(folder / "vae")
    sched.unipc(settings["shift"]).save_pretrained(folder / "scheduler")
    height, width = settings["height"], settings["width"]
    values = random("inputs")
    inputs = {
        f"ref{i}.video": values.uniform(f"ref{i}.video", (1, 3, n, height, width), -1.0, 1.0)
        for i, n in enumerate(settings["refs"])
    }
    latent = (1, dit.CHANNELS, 1 + (settings["frames"] - 1) // 4, height // 16, width // 16)
    inputs["noise"] = values.normal("noise", latent)
    for name, prompt in [("prompt", settings["prompt"]), ("empty", "")]:
        ids, mask = text.padded(tokenizer, [prompt], settings["text_len"])
        inputs[f"{name}.input_ids"], inputs[f"{name}.attention_mask"] = ids, mask
    save(folder / "inputs.safetensors", inputs)


def read(folder, settings):
    """The three networks with the scheduler's configuration, and the inputs of a case folder."""
    classes = {
        "transformer": WanTransformer3DModel,
        "vae": AutoencoderKLWan,
        "text_encoder": UMT5EncoderModel,
    }
    model = {
        part: strictly(owner.from_pretrained(folder / part, output_loading_info=True))
        for part, owner in classes.items()
    }
    model["scheduler"] = UniPCMultistepScheduler.from_pretrained(folder / "scheduler").config
    inputs = load(folder / "inputs.safetensors")
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer" / "tokenizer.json"))
    for name, prompt in [("prompt", settings["prompt"]), ("empty", "")]:
        ids, mask = text.padded(tokenizer, [prompt], settings["text_len"])
        same = torch.equal(ids, inputs[f"{name}.input_ids"])
        if not (same and torch.equal(mask, inputs[f"{name}.attention_mask"])):
            raise ValueError(f"the ids of {name} differ")
    return model, inputs


def token_timesteps(latents, frames_at_zero, timestep):
    """One timestep per token, [1,S]: 0 for the first frames, `timestep` after them."""
    per_frame = latents.shape[3] // 2 * (latents.shape[4] // 2)
    row = torch.full((1, latents.shape[2] * per_frame), float(timestep))
    row[:, : frames_at_zero * per_frame] = 0
    return row


def velocity(transformer, references, latents, timestep, embeds):
    """The transformer's output on the target frames."""
    joined = torch.cat([*references, latents], dim=2)
    frames = joined.shape[2] - latents.shape[2]
    out = transformer(
        hidden_states=joined,
        timestep=token_timesteps(joined, frames, timestep),
        encoder_hidden_states=embeds,
        return_dict=False,
    )[0]
    return out[:, :, frames:]


def sample(model, noise, references, embeds, guidance, steps):
    """Yields scheduler, latents, timestep, the two velocities and the guided one of every step.

    `references` and `embeds` are pairs: conditional, unconditional.
    """
    scheduler = UniPCMultistepScheduler.from_config(model["scheduler"])
    with sched.widening(False):
        scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.to(noise.dtype)
    latents = noise
    for timestep in scheduler.timesteps:
        conditional, unconditional = (
            velocity(model["transformer"], branch, latents, timestep, rows)
            for branch, rows in zip(references, embeds)
        )
        guided = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        yield scheduler, latents, timestep, conditional, unconditional, guided


def decode(model, latents):
    """The de-normalised latents and the video, in [-1,1]."""
    mean, std = vae.statistics(model["vae"], latents.dtype)
    raw = latents / (1.0 / std) + mean
    return raw, model["vae"].decode(raw).sample


@torch.no_grad()
def expected(model, inputs, settings, dtype=torch.float32):
    """Embeddings, reference latents, every step, and the video."""
    for part in ["transformer", "vae", "text_encoder"]:
        model[part].to(dtype)
    found = {}
    embeds = []
    for name in ["prompt", "empty"]:
        ids, mask = inputs[f"{name}.input_ids"], inputs[f"{name}.attention_mask"]
        embeds.append(text.embeddings(model["text_encoder"], ids, mask))
        found[f"{name}_embeds"] = embeds[-1]
    references = ([], [])
    for i in range(len(settings["refs"])):
        video = inputs[f"ref{i}.video"].to(dtype)
        pairs = [("latent", video), ("black_latent", torch.full_like(video, -1.0))]
        for branch, (name, pixels) in zip(references, pairs):
            mean = model["vae"].encode(pixels).latent_dist.mode()
            branch.append(vae.normalised(model["vae"], mean))
            found[f"ref{i}.{name}"] = branch[-1]
    noise = inputs["noise"].to(dtype)
    guidance, count = settings["guidance"], settings["steps"]
    steps = sample(model, noise, references, embeds, guidance, count)
    for i, (scheduler, latents, timestep, conditional, unconditional, guided) in enumerate(steps):
        if i == 0:
            found["sigmas"] = scheduler.sigmas.float()
            found["timesteps"] = scheduler.timesteps
            joined = torch.cat([*references[0], latents], dim=2)
            frames = joined.shape[2] - latents.shape[2]
            found["step0.token_timesteps"] = token_timesteps(joined, frames, timestep)
            found["step0.v_cond"], found["step0.v_uncond"] = conditional, unconditional
        found[f"step{i}.v"], found[f"step{i}.latent"] = guided, latents
    found["vae_input"], found["video"] = decode(model, latents)
    if settings.get("library_run") and dtype == torch.float32:
        library = library_run(model, inputs, embeds, settings)
        found.update({name: library[name] for name in settings["library_run"]})
    return found


@torch.no_grad()
def library_run(model, inputs, embeds, settings):
    """diffusers' own WanPipeline without references: final latents and video (in [0,1])."""
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=model["vae"],
        scheduler=UniPCMultistepScheduler.from_config(model["scheduler"]),
        transformer=model["transformer"],
        expand_timesteps=True,
    )
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for name, kind in [("t2v.library_latent", "latent"), ("t2v.library_video", "pt")]:
        found[name] = pipe(
            prompt_embeds=embeds[0],
            negative_prompt_embeds=embeds[1],
            latents=inputs["noise"],
            height=settings["height"],
            width=settings["width"],
            num_frames=settings["frames"],
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            output_type=kind,
        ).frames
    return found


@torch.no_grad()
def remarks(model, inputs, found, settings):
    """Figures for meta.json: our loop without references against the library's pipeline."""
    for part in ["transformer", "vae", "text_encoder"]:
        model[part].to(torch.float32)
    embeds = [found["prompt_embeds"], found["empty_embeds"]]
    library = library_run(model, inputs, embeds, settings)
    none = ([], [])
    steps = sample(
        model, inputs["noise"], none, embeds, settings["guidance"], settings["steps"]
    )
    for _, latents, *_ in steps:
        pass
    video = decode(model, latents)[1] / 2 + 0.5
    video = video.permute(0, 2, 1, 3, 4)
    return {
        "prompt": settings["prompt"],
        "own_loop_without_references_vs_library_pipeline": {
            "latent": error(latents, library["t2v.library_latent"]),
            "video": error(video.clamp(0, 1), library["t2v.library_video"]),
        },
        "share_of_pixels_at_the_clamp": round(
            (found["video"].abs() == 1).double().mean().item(), 4
        ),
    }
