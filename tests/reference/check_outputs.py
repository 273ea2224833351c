"""Checks that a model folder we wrote is read by the real libraries, strictly.

    anyid-rt init DIR
    python check_outputs.py DIR [--no-forward]

Every component is loaded by its own class: no tensor may be missing, unexpected or of another
shape, and no configuration key unknown. Then each network runs once on tiny inputs and must give
finite values, and the whole folder is opened as a WanPipeline. Prints a line for each part; the
exit code is 1 if one fails.
"""

import argparse
import inspect
import sys
import traceback
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from transformers import T5TokenizerFast, UMT5EncoderModel

from common import read_json, strictly

# Keys that the libraries write themselves and no constructor takes.
STAMPS = {"_class_name", "_diffusers_version", "_name_or_path"}
# Keys of ours, which diffusers leaves alone: rows of the text context where they are not 512, and the
# size, steps and guidance that a model was made for.
OURS = {"text_len", "sample_width", "sample_height", "sample_frames", "sample_steps", "sample_guidance"}


def require(condition, message):
    """Fails the part with a message."""
    if not condition:
        raise ValueError(message)


def finite(*tensors):
    """Fails the part where a value is not finite."""
    for tensor in tensors:
        require(torch.isfinite(tensor).all().item(), "the forward pass gives values not finite")


def known_keys(path, owner):
    """Fails the part where config.json names another class or has a key that nobody reads."""
    config = read_json(path)
    name = config.get("_class_name")
    require(name == owner.__name__, f"{path.name}: _class_name is {name}, not {owner.__name__}")
    parameters = set(inspect.signature(owner.__init__).parameters) - {"self"}
    unknown = set(config) - parameters - STAMPS - OURS
    require(not unknown, f"{path.name}: unknown keys {sorted(unknown)}")
    return sorted(parameters - set(config))


def described(model, missing):
    """What a network's line says."""
    count = sum(parameter.numel() for parameter in model.parameters())
    tensors = len(model.state_dict())
    note = f", keys left at their default: {', '.join(missing)}" if missing else ""
    return f"{tensors} tensors, {count} parameters, {model.dtype}{note}"


@torch.no_grad()
def check_transformer(folder, forward):
    missing = known_keys(folder / "config.json", WanTransformer3DModel)
    model = strictly(WanTransformer3DModel.from_pretrained(folder, output_loading_info=True))
    if forward:
        config = model.config
        latents = torch.randn(1, config.in_channels, 2, 4, 4)
        text = torch.randn(1, 5, config.text_dim)
        _, rows, columns = config.patch_size
        tokens = (4 // rows) * (4 // columns)
        timestep = torch.tensor([[0.0] * tokens + [800.0] * tokens])
        out = model(latents.to(model.dtype), timestep, text.to(model.dtype), return_dict=False)[0]
        require(out.shape == latents.shape, f"output has shape {tuple(out.shape)}")
        finite(out)
    return described(model, missing)


@torch.no_grad()
def check_vae(folder, forward):
    missing = known_keys(folder / "config.json", AutoencoderKLWan)
    model = strictly(AutoencoderKLWan.from_pretrained(folder, output_loading_info=True))
    config = model.config
    for key in ["latents_mean", "latents_std"]:
        require(len(config[key]) == config.z_dim, f"{key} has {len(config[key])} values")
    if forward:
        video = torch.rand(1, 3, 5, 32, 32).to(model.dtype) * 2 - 1
        latents = model.encode(video).latent_dist.mode()
        side = 32 // (config.patch_size or 1) // 2 ** (len(config.dim_mult) - 1)
        expected = (1, config.z_dim, 2, side, side)
        require(latents.shape == expected, f"latents {tuple(latents.shape)}")
        decoded = model.decode(latents).sample
        require(decoded.shape == video.shape, f"decoded video {tuple(decoded.shape)}")
        finite(latents, decoded)
    return described(model, missing)


@torch.no_grad()
def check_text_encoder(folder, forward):
    config = read_json(folder / "config.json")
    require(config.get("model_type") == "umt5", f"model_type is {config.get('model_type')}")
    require(config.get("architectures") == ["UMT5EncoderModel"], "architectures is another")
    known = set(transformers.UMT5Config(**config).to_dict())
    require(set(config) <= known, f"unknown keys {sorted(set(config) - known)}")
    model = strictly(UMT5EncoderModel.from_pretrained(folder, output_loading_info=True))
    if forward:
        out = model(torch.tensor([[3, 4, 1, 0]]), torch.tensor([[1, 1, 1, 0]])).last_hidden_state
        require(out.shape == (1, 4, model.config.d_model), f"output has shape {tuple(out.shape)}")
        finite(out)
    return described(model, [])


def check_tokenizer(folder, forward):
    del forward
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for token, number in [("<pad>", 0), ("</s>", 1)]:
        found = tokenizer.token_to_id(token)
        require(found == number, f"{token} has id {found}, not {number}")
    ids = tokenizer.encode("A cat on a beach.").ids
    require(ids[-1] == 1, f"a prompt ends in {ids[-1]}, not in </s>")
    require(tokenizer.encode("").ids == [1], "the empty prompt is not </s> alone")
    loaded = T5TokenizerFast.from_pretrained(folder)
    require(len(loaded) >= tokenizer.get_vocab_size(), "T5TokenizerFast loads fewer tokens")
    rows = read_json(folder.parent / "text_encoder" / "config.json")["vocab_size"]
    require(tokenizer.get_vocab_size() <= rows, f"more tokens than the {rows} embedding rows")
    return f"{tokenizer.get_vocab_size()} tokens"


def check_scheduler(folder, forward):
    del forward
    missing = known_keys(folder / "scheduler_config.json", UniPCMultistepScheduler)
    scheduler = UniPCMultistepScheduler.from_pretrained(folder)
    config = scheduler.config
    require(config.use_flow_sigmas, "use_flow_sigmas is off")
    require(config.prediction_type == "flow_prediction", "prediction_type is another")
    scheduler.set_timesteps(8)
    require(scheduler.timesteps[0].item() == 999, "the first timestep is not 999")
    sample = torch.zeros(1, 4, 1, 2, 2)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(torch.ones_like(sample), timestep, sample).prev_sample
    finite(sample)
    note = f", keys left at their default: {', '.join(missing)}" if missing else ""
    return f"shift {config.flow_shift}{note}"


def check_whole(folder, forward):
    index = read_json(folder / "model_index.json")
    require(index.get("_class_name") == "WanPipeline", "model_index.json: another _class_name")
    require(index.get("expand_timesteps") is True, "model_index.json: expand_timesteps is not true")
    pipe = WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    # The loop of WanPipeline knows patches of 2x2 alone.
    if forward and tuple(pipe.transformer.config.patch_size) == (1, 2, 2):
        pipe.to(dtype=torch.float32)
        prompt = dict(prompt="A cat.", max_sequence_length=16)
        size = dict(height=32, width=32, num_frames=1, num_inference_steps=2)
        video = pipe(**prompt, **size, output_type="pt").frames
        require(video.shape == (1, 1, 3, 32, 32), f"video has shape {tuple(video.shape)}")
        finite(video)
        return "opened as WanPipeline, two steps run"
    return "opened as WanPipeline"


PARTS = {
    "transformer": check_transformer,
    "vae": check_vae,
    "text_encoder": check_text_encoder,
    "tokenizer": check_tokenizer,
    "scheduler": check_scheduler,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the model folder")
    parser.add_argument("--no-forward", action="store_true", help="load only")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    jobs = [(part, options.folder / part, check) for part, check in PARTS.items()]
    jobs.append(("model_index.json", options.folder, check_whole))
    failed = 0
    for part, place, check in jobs:
        try:
            print(f"ok    {part}: {check(place, not options.no_forward)}", flush=True)
        except Exception as fault:  # any fault of the libraries is a finding about this part
            failed += 1
            print(f"WRONG {part}: {type(fault).__name__}: {fault}", flush=True)
            if not isinstance(fault, ValueError):
                traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
