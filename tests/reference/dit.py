"""Cases of WanTransformer3DModel: a timestep per sample, and a timestep per token."""

import torch
from diffusers import WanTransformer3DModel

from common import Random, fan_in, fill, hooks, load, save, strictly

KIND = "dit"

# Rotary parts of a head (time, rows, columns): 16+16+16 at 48, 8+4+4 at 16, 24+20+20 at 64.
CASES = {
    "hd48": dict(
        heads=3, head_dim=48, ffn=112, layers=2, text_len=12, text_real=[12, 5], text_dim=40,
        freq_dim=64, batch=2, frames=2, height=4, width=6, ref=1,
    ),
    "single": dict(
        heads=2, head_dim=16, ffn=100, layers=2, text_len=7, text_real=[3], text_dim=40,
        freq_dim=64, batch=1, frames=1, height=2, width=2, ref=0,
    ),
    "many": dict(
        heads=1, head_dim=64, ffn=136, layers=1, text_len=9, text_real=[1], text_dim=56,
        freq_dim=48, batch=1, frames=6, height=4, width=4, ref=5,
    ),
    # Every latent is a token.
    "patch1": dict(
        heads=2, head_dim=16, ffn=96, layers=2, text_len=6, text_real=[4], text_dim=24,
        freq_dim=32, batch=1, frames=3, height=3, width=5, ref=1, patch=[1, 1, 1], channels=24,
    ),
    # Patches with three different sides; two latent frames a token.
    "patch213": dict(
        heads=2, head_dim=16, ffn=96, layers=1, text_len=6, text_real=[6], text_dim=24,
        freq_dim=32, batch=1, frames=4, height=3, width=6, ref=2, patch=[2, 1, 3], channels=16,
    ),
}  # fmt: skip

USUAL = {"patch": [1, 2, 2], "channels": 48}
SCALAR_TIMESTEPS = [937.0, 412.5]
TOKEN_TIMESTEPS = [851.0, 276.0]


def build(random, *, heads, head_dim, ffn, layers, text_dim, freq_dim, patch, channels):
    """A transformer with random weights in which no path is at zero."""
    model = WanTransformer3DModel(
        patch_size=tuple(patch),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        text_dim=text_dim,
        freq_dim=freq_dim,
        ffn_dim=ffn,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=1024,
    )

    def rule(name, tensor):
        if name.endswith("scale_shift_table"):
            return 0.4, 0.0
        if name.endswith("bias"):
            return 0.1, 0.0
        if "norm" in name:
            return 0.25, 1.0
        gain = 1.0
        if "to_q" in name or "to_k" in name:
            gain = 1.4
        elif "text_embedder" in name or "time_embedder" in name:
            gain = 1.3
        elif "time_proj" in name:
            gain = 0.9
        return gain / fan_in(tensor) ** 0.5, 0.0

    fill(model, random, rule)
    return model.eval()


def make(folder, case, settings, seed):
    """Writes weights and inputs of a case."""
    random = Random(seed, KIND, case)
    sizes = {
        name: settings[name]
        for name in ["heads", "head_dim", "ffn", "layers", "text_dim", "freq_dim"]
    }
    usual = {name: settings.get(name, value) for name, value in USUAL.items()}
    build(random, **sizes, **usual).save_pretrained(folder)
    batch, frames = settings["batch"], settings["frames"]
    height, width = settings["height"], settings["width"]
    text = random.normal("text", (batch, settings["text_len"], settings["text_dim"]))
    for row, real in zip(text, settings["text_real"]):
        row[real:] = 0
    deep, tall, wide = usual["patch"]
    per_frame = height // tall * (width // wide)
    token_timestep = torch.zeros(batch, frames // deep * per_frame)
    for row, timestep in zip(token_timestep, TOKEN_TIMESTEPS):
        row[settings["ref"] // deep * per_frame :] = timestep
    latents = (batch, usual["channels"], frames, height, width)
    inputs = {
        "text": text,
        "scalar.hidden_states": random.normal("scalar.hidden_states", latents),
        "scalar.timestep": torch.tensor(SCALAR_TIMESTEPS[:batch]),
        "token.hidden_states": random.normal("token.hidden_states", latents),
        "token.timestep": token_timestep,
    }
    save(folder / "inputs.safetensors", inputs)


def read(folder, settings):
    """The model and the inputs of a case folder."""
    model = WanTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    return strictly(model), load(folder / "inputs.safetensors")


@torch.no_grad()
def expected(model, inputs, settings, dtype=torch.float32):
    """Outputs and intermediate values of both calls."""
    model = model.to(dtype)
    found = {}
    for prefix in ["scalar", "token"]:

        def keep(name, change=lambda value: value):
            def receive(value):
                found[f"{prefix}.{name}"] = change(value).clone()

            return receive

        def keep_rope(value):
            found[f"{prefix}.rope_cos"], found[f"{prefix}.rope_sin"] = value

        def keep_conditions(value):
            for name, part in zip(["temb", "timestep_proj", "text_proj"], value):
                found[f"{prefix}.{name}"] = part

        with hooks() as taps:
            taps.output(model.rope, keep_rope)
            taps.output(
                model.patch_embedding,
                keep("patch_embed", lambda value: value.flatten(2).transpose(1, 2)),
            )
            taps.output(model.condition_embedder.timesteps_proj, keep("time_sinusoid"))
            taps.output(model.condition_embedder, keep_conditions)
            first = model.blocks[0]
            taps.output(first.norm1, keep("block0.norm1"))
            taps.input(first.attn1, keep("block0.attn1.in"))
            taps.output(first.attn1.norm_q, keep("block0.attn1.q_norm"))
            taps.output(first.attn1.norm_k, keep("block0.attn1.k_norm"))
            taps.input(first.attn1.to_out[0], keep("block0.attn1.sdpa"))
            taps.output(first.attn1, keep("block0.attn1.out"))
            taps.output(first.norm2, keep("block0.norm2"))
            taps.output(first.attn2, keep("block0.attn2.out"))
            taps.input(first.ffn, keep("block0.ffn.in"))
            taps.output(first.ffn, keep("block0.ffn.out"))
            for i, block in enumerate(model.blocks):
                taps.output(block, keep(f"block{i}.out"))
            taps.input(model.proj_out, keep("head.in"))
            taps.output(model.proj_out, keep("head.proj"))
            found[f"{prefix}.out"] = model(
                hidden_states=inputs[f"{prefix}.hidden_states"].to(dtype),
                timestep=inputs[f"{prefix}.timestep"],
                encoder_hidden_states=inputs["text"].to(dtype),
                return_dict=False,
            )[0]
    return found
