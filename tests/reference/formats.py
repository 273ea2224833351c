"""Checks the files that `anyid-rt convert` writes against the libraries that read such files.

    python formats.py path/to/anyid-rt [--fixtures ../fixtures_extra/lora]

The fixtures' transformer is converted to q8_0, q4_k and fp8.

1. gguf-py reads the GGUF files and decodes them: what is lost may not be more than what its own quantiser (for q8_0) or the
   step of the type (for q4_k) loses. Names, shapes and types are those that were asked for.
2. diffusers loads them (`from_single_file` with `GGUFQuantizationConfig`); its output has to be that of `anyid-rt run` with the
   same file.
3. PyTorch reads the fp8 file; the transformer with code times scale gives the output of `anyid-rt run` with the file.

Tolerance of outputs: 1e-5 of the largest value. Prints a line for each check; the exit code is 1 if one fails. Where the libraries
are missing nothing is checked, and a line says so.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import gguf
    import numpy as np
    import torch
    from diffusers import GGUFQuantizationConfig, WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(0)

TOLERANCE = 1e-5


class Check:
    """The fixtures, the program, and a folder for what is made."""

    def __init__(self, program, fixtures, folder):
        self.program, self.folder = program, folder
        self.base = fixtures / "base"
        self.weights = self.base / "transformer/diffusion_pytorch_model.safetensors"
        self.inputs = load_file(self.base / "inputs.safetensors")
        self.failed = False
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

    def convert(self, to, ending):
        path = self.path(f"dit-{to}.{ending}")
        self.run("convert", self.weights, "--to", to, "-o", path)
        return path

    def ours(self, weights):
        out = weights.with_suffix(".out")
        self.run(
            "run", self.path("dit.ir"), "--weights", weights, "--inputs", self.path("in"), "-o", out
        )
        return load_file(out)["v"]

    def theirs(self, transformer):
        with torch.no_grad():
            return transformer(
                hidden_states=self.inputs["hidden_states"],
                timestep=self.inputs["timestep"],
                encoder_hidden_states=self.inputs["text"],
                return_dict=False,
            )[0][0].float()

    def plain(self):
        return WanTransformer3DModel.from_pretrained(self.base / "transformer").eval()

    def say(self, what, fine, figures):
        self.failed |= not fine
        print(f"{'ok    ' if fine else 'FAILED'} {what}: {figures}")

    def compare(self, what, theirs, ours, base, tolerance=TOLERANCE):
        scale = theirs.abs().max()
        apart = ((theirs - ours).abs().max() / scale).item()
        effect = ((theirs - base).abs().max() / scale).item()
        self.say(what, apart <= tolerance and effect > 1e-4, f"{apart:.1e} apart, effect {effect:.4f}")


def lost(values, back):
    return float(np.sqrt(np.square(values - back).mean() / np.square(values).mean()))


def blocks(check, to, kind, base):
    path = check.convert(to, "gguf")
    state = {name: value.numpy() for name, value in check.plain().state_dict().items()}
    reader = gguf.GGUFReader(path)
    narrow, worst, usual = 0, 0.0, 0.0
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        tensors[tensor.name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        narrow += tensor.tensor_type == kind
    converted = convert_wan_transformer_to_diffusers(dict(tensors))
    same = {name: value.shape for name, value in converted.items()} == {
        name: value.shape for name, value in state.items()
    }
    check.say(f"{to}: names and shapes", same and narrow > 0, f"{len(tensors)} tensors, {narrow} {kind.name}")
    for name, value in converted.items():
        worst = max(worst, lost(state[name], value.numpy()))
    if kind == gguf.GGMLQuantizationType.Q8_0:
        for tensor in reader.tensors:
            if tensor.tensor_type == kind:
                name = next(iter(convert_wan_transformer_to_diffusers({tensor.name: tensors[tensor.name]})))
                own = gguf.quants.quantize(state[name], kind)
                equal = np.array_equal(own, tensor.data)
                usual = max(usual, lost(state[name], gguf.quants.dequantize(own, kind)))
                if not equal:
                    check.say(f"{to}: {tensor.name}", False, "other bytes than those of gguf-py")
        check.say(f"{to}: loss", worst <= usual * 1.0001, f"{worst:.5f}, by gguf-py {usual:.5f}")
    else:
        # A step of 1/15 of the range of 32 values, of which a uniform error is 1/sqrt(12).
        check.say(f"{to}: loss", worst < 0.1, f"{worst:.4f}")
    # The network in f32 with the values that gguf-py decodes.
    plain = check.plain()
    plain.load_state_dict(converted, strict=True)
    check.compare(f"{to}: PyTorch", check.theirs(plain), check.ours(path), base)
    library = WanTransformer3DModel.from_single_file(
        str(path),
        config=str(check.base / "transformer"),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    ).eval()
    # diffusers decodes blocks to f16, whatever it computes in: each weight is off by up to 2^-11.
    check.compare(f"{to}: diffusers", check.theirs(library), check.ours(path), base, 1e-3)


def scaled(check, base):
    path = check.convert("fp8", "safetensors")
    stored = load_file(path)
    weights, narrow = {}, 0
    for name, value in stored.items():
        if name.endswith(".scale_weight") or name == "scaled_fp8":
            continue
        scale = stored.get(name.removesuffix(".weight") + ".scale_weight")
        narrow += scale is not None
        weights[name] = value.float() * (scale if scale is not None else 1.0)
    transformer = check.plain()
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(weights), strict=True)
    check.say("fp8: scales", narrow > 0, f"{narrow} matrices")
    check.compare("fp8: PyTorch", check.theirs(transformer), check.ours(path), base)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    here = Path(__file__).resolve().parent
    parser.add_argument("--fixtures", type=Path, default=here / "../fixtures_extra/lora")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(args.program, args.fixtures, Path(folder))
        base = check.theirs(check.plain())
        blocks(check, "q8_0", gguf.GGMLQuantizationType.Q8_0, base)
        blocks(check, "q4_k", gguf.GGMLQuantizationType.Q4_K, base)
        scaled(check, base)
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
