"""Checks adapters against PEFT and diffusers, in both directions.

    python adapters.py path/to/anyid-rt [--fixtures ../fixtures_extra/lora]

1. Adapters that `anyid-rt lora convert` and `lora combine` wrote are loaded by the real libraries
   (`WanPipeline.load_lora_weights` for files, `PeftModel.from_pretrained` for folders) into the
   fixtures' transformer. Its output has to be that of `anyid-rt run` with the merged weights.
2. Adapters that PEFT and diffusers write anew, of random values, are merged by `anyid-rt lora
   merge`; again both outputs have to agree.

Tolerance: 1e-5 of the largest value. Prints a line for each check; the exit code is 1 if one fails.
Where the libraries are missing nothing is checked, and a line says so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import peft
    import torch
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

TOLERANCE = 1e-5


class Check:
    """The fixtures, the program, and a folder for what is made."""

    def __init__(self, program, fixtures, folder):
        self.program, self.fixtures, self.folder = program, fixtures, folder
        self.base = fixtures / "base"
        self.inputs = load_file(self.base / "inputs.safetensors")
        self.failed = False
        self.number = 0
        times, segments = torch.unique(self.inputs["timestep"][0], return_inverse=True)
        frames, height, width = self.inputs["hidden_states"].shape[2:]
        given = {
            "lat": self.inputs["hidden_states"][0],
            "t": times,
            "seg": segments.to(torch.int32),
            "txt": self.inputs["text"][0],
        }
        save_file({name: value.contiguous() for name, value in given.items()}, self.path("in"))
        self.run(
            "export", "dit", "--model", self.base / "transformer", "--tokens",
            given["txt"].shape[0], "--size", f"{16 * width}x{16 * height}", "--frames",
            4 * (frames - 1) + 1, "--timesteps", len(times), "-o", self.path("dit.ir"),
        )  # fmt: skip

    def path(self, name):
        return self.folder / name

    def run(self, *words):
        subprocess.run([self.program, "-q", *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def fresh(self):
        self.number += 1
        return self.path(f"file{self.number}")

    def transformer(self):
        return WanTransformer3DModel.from_pretrained(self.base / "transformer").eval()

    def theirs(self, transformer):
        """The output of a transformer of the library."""
        with torch.no_grad():
            return transformer(
                hidden_states=self.inputs["hidden_states"],
                timestep=self.inputs["timestep"],
                encoder_hidden_states=self.inputs["text"],
                return_dict=False,
            )[0][0]

    def ours(self, *adapters):
        """The output of our transformer with adapters merged."""
        merged, out = self.fresh().with_suffix(".safetensors"), self.fresh()
        weights = self.base / "transformer/diffusion_pytorch_model.safetensors"
        words = [word for adapter in adapters for word in ("--lora", adapter)]
        self.run("lora", "merge", weights, *words, "-o", merged)
        self.run(
            "run", self.path("dit.ir"), "--weights", merged, "--inputs", self.path("in"),
            "-o", out,
        )  # fmt: skip
        return load_file(out)["v"]

    def compare(self, what, theirs, ours, base):
        scale = theirs.abs().max()
        apart = ((theirs - ours).abs().max() / scale).item()
        effect = ((theirs - base).abs().max() / scale).item()
        fine = apart <= TOLERANCE and effect > 0.01
        self.failed |= not fine
        print(f"{'ok    ' if fine else 'FAILED'} {what}: {apart:.1e} apart, effect {effect:.2f}")


def pipeline(transformer):
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=UniPCMultistepScheduler(),
        transformer=transformer,
    )


def written_here(check, base):
    """What we write, read by the libraries."""
    sources = {
        "LoRA": ["comfy_ab.safetensors"],
        "LoRA from musubi": ["musubi.safetensors"],
        "ranks by pattern": ["peft_patterns"],
        "rslora": ["peft_rslora"],
        "embeddings and head": ["comfy_other_modules.safetensors"],
        "bias": ["peft_lora_bias"],
        "DoRA": ["peft_dora"],
        "two joined": ["comfy_ab.safetensors:0.7", "comfy_second.safetensors:-0.3"],
    }
    for name, files in sources.items():
        adapters = [check.fixtures / file for file in files]
        ours = check.ours(*adapters)
        for dialect in ("diffusers", "comfyui", "musubi", "peft"):
            # Only PEFT's dialect has DoRA among those that the libraries read.
            if name == "DoRA" and dialect != "peft":
                continue
            # diffusers' readers of these dialects know neither differences of biases nor adapters
            # of embeddings alone.
            if name in ("bias", "embeddings and head") and dialect in ("comfyui", "musubi"):
                continue
            out = check.fresh().with_suffix("" if dialect == "peft" else ".safetensors")
            verb = ["combine", *adapters] if len(adapters) > 1 else ["convert", adapters[0]]
            check.run("lora", *verb, "--to", dialect, "-o", out)
            transformer = check.transformer()
            if dialect == "peft":
                transformer = peft.PeftModel.from_pretrained(transformer, out).eval()
            else:
                pipeline(transformer).load_lora_weights(str(out))
            check.compare(f"{name} as {dialect}", check.theirs(transformer), ours, base)


def random_values(module, seed):
    """Gives every parameter of an adapter a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "lora_" in name or "hada_" in name or "lokr_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.data *= 1 + 0.2 * noise
            else:
                # Products of several small factors would hardly be seen.
                parameter.data = (0.1 if "lora_" in name else 0.4) * noise


def written_there(check, base):
    """What the libraries write, read by us."""
    targets = ["to_q", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    lora = dict(r=3, lora_alpha=5, target_modules=targets)
    configs = {
        "LoRA": peft.LoraConfig(**lora),
        "rslora": peft.LoraConfig(use_rslora=True, **lora),
        "DoRA": peft.LoraConfig(use_dora=True, **lora),
        "bias": peft.LoraConfig(lora_bias=True, **lora),
        "patterns": peft.LoraConfig(
            rank_pattern={"attn1.to_q": 2, r"^blocks\.1\.ffn\.net\.2": 6},
            alpha_pattern={"to_v": 1.5, "net.2": 9},
            **lora,
        ),
        "LoHa": peft.LoHaConfig(r=3, alpha=4, target_modules=targets),
        "LoKr": peft.LoKrConfig(r=2, alpha=3, target_modules=targets, decompose_factor=4),
        "LoKr of whole factors": peft.LoKrConfig(r=64, alpha=32, target_modules=targets),
    }
    for seed, (name, config) in enumerate(configs.items()):
        model = peft.get_peft_model(check.transformer(), config).eval()
        random_values(model, seed)
        folder = check.fresh()
        model.save_pretrained(folder)
        check.compare(f"{name} of PEFT", check.theirs(model), check.ours(folder), base)
    transformer = check.transformer()
    transformer.add_adapter(peft.LoraConfig(**lora))
    random_values(transformer, 99)
    folder = check.fresh()
    layers = peft.get_peft_model_state_dict(transformer)
    metadata = {"transformer_lora_adapter_metadata": dict(lora, peft_type="LORA")}
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=layers, **metadata)
    check.compare("LoRA of diffusers", check.theirs(transformer), check.ours(folder), base)
    folder = check.fresh()
    transformer.save_lora_adapter(folder)
    check.compare("one of a transformer", check.theirs(transformer), check.ours(folder), base)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    default = Path(__file__).parent.parent / "fixtures_extra/lora"
    parser.add_argument("--fixtures", type=Path, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(arguments.program.resolve(), arguments.fixtures.resolve(), Path(folder))
        base = check.theirs(check.transformer())
        written_here(check, base)
        written_there(check, base)
        print(json.dumps({"failed": check.failed}))
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
