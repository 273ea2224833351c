"""Shared by the fixture writers: random tensors, safetensors files, float64 runs, error figures.

Nothing here knows a network. Every random tensor depends on (seed, kind, case, tensor name) alone,
so that adding a tensor changes no other one.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PACKAGES = [
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "safetensors",
    "ftfy",
    "numpy",
]


def versions():
    """Versions of everything that takes part, for meta.json."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


class Random:
    """Named random tensors of one case."""

    def __init__(self, seed, kind, case):
        self.prefix = f"{seed}/{kind}/{case}/"

    def _generator(self, name):
        digest = hashlib.sha256((self.prefix + name).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    def normal(self, name, shape, scale=1.0, centre=0.0):
        """Normally distributed float32 values."""
        return torch.randn(shape, generator=self._generator(name)) * scale + centre

    def uniform(self, name, shape, low, high):
        """Uniformly distributed float32 values in [low, high)."""
        return torch.rand(shape, generator=self._generator(name)) * (high - low) + low

    def integers(self, name, shape, low, high):
        """Uniformly distributed int64 values, low <= value < high."""
        return torch.randint(low, high, shape, generator=self._generator(name))


def fan_in(tensor):
    """Number of inputs of one output of a linear or a convolution."""
    return math.prod(tensor.shape[1:])


@torch.no_grad()
def fill(module, random, rule):
    """Sets every parameter; `rule(name, tensor)` gives its (scale, centre)."""
    for name, parameter in module.named_parameters():
        scale, centre = rule(name, parameter)
        parameter.copy_(random.normal(name, parameter.shape, scale, centre))


def save(path, tensors):
    """Writes a safetensors file."""
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)


def open_up(folder):
    """Gives every file of a folder the usual permissions; the libraries write private ones."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


def load(path):
    """Reads a safetensors file."""
    return load_file(path)


def write_json(path, value, indent=1):
    """Writes a JSON file that ends in a line break."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_json(path):
    """Reads a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def error(value, reference):
    """How far `value` is from `reference`, in the four figures of meta.json."""
    value, reference = value.double(), reference.double()
    difference = (value - reference).abs().max().item()
    largest = reference.abs().max().item()
    norm = reference.norm().item()
    distance = (value - reference).norm().item()
    return {
        "max_abs": float(f"{difference:.4g}"),
        "ref_max": float(f"{largest:.5g}"),
        "max_abs_over_ref_max": float(f"{difference / largest if largest else difference:.4g}"),
        "rel_l2": float(f"{distance / norm if norm else distance:.4g}"),
    }


def errors(values, references):
    """`error` for every floating tensor and the worst of them; integer tensors must be equal."""
    if values.keys() != references.keys():
        raise ValueError(f"tensor names differ: {sorted(values.keys() ^ references.keys())}")
    tensors = {}
    for name, reference in references.items():
        value = values[name]
        if value.shape != reference.shape:
            raise ValueError(f"{name}: shape {tuple(value.shape)}, not {tuple(reference.shape)}")
        if reference.is_floating_point():
            tensors[name] = error(value, reference)
        elif value.dtype != reference.dtype or not torch.equal(value, reference):
            raise ValueError(f"{name}: integers differ")
    worst = max(tensors, key=lambda name: tensors[name]["max_abs_over_ref_max"])
    return {"worst": {"tensor": worst, **tensors[worst]}, "tensors": tensors}


_float64 = False


@contextlib.contextmanager
def widening(on):
    """Inside `float64`: whether casts to float32 are widened at the moment."""
    global _float64
    before, _float64 = _float64, on
    try:
        yield
    finally:
        _float64 = before


@contextlib.contextmanager
def float64():
    """Runs library code in float64: its own casts to float32 become casts to float64.

    The time sinusoid and the buckets of relative positions stay in float32, because their
    rounding belongs to the method.
    """
    from diffusers.models.embeddings import Timesteps
    from transformers.models.umt5.modeling_umt5 import UMT5Attention

    plain_float, plain_to = torch.Tensor.float, torch.Tensor.to

    def to_float(self, *rest, **named):
        return self.double() if _float64 else plain_float(self, *rest, **named)

    def wide(value):
        return torch.float64 if value is torch.float32 else value

    def to(self, *rest, **named):
        if _float64:
            rest = [wide(value) for value in rest]
            named = {name: wide(value) for name, value in named.items()}
        return plain_to(self, *rest, **named)

    def narrow(function):
        def call(*rest, **named):
            with widening(False):
                return function(*rest, **named)

        return call

    kept = [(Timesteps, "forward"), (UMT5Attention, "_relative_position_bucket")]
    originals = [getattr(owner, name) for owner, name in kept]
    torch.Tensor.float, torch.Tensor.to = to_float, to
    for (owner, name), original in zip(kept, originals):
        setattr(owner, name, narrow(original))
    try:
        with widening(True):
            yield
    finally:
        torch.Tensor.float, torch.Tensor.to = plain_float, plain_to
        for (owner, name), original in zip(kept, originals):
            setattr(owner, name, original)


@contextlib.contextmanager
def hooks():
    """Collects forward hooks and takes them off again at the end."""
    handles = []

    class Taps:
        def output(self, module, receive):
            handles.append(module.register_forward_hook(lambda m, i, out: receive(out)))

        def input(self, module, receive):
            handles.append(module.register_forward_pre_hook(lambda m, args: receive(args[0])))

    try:
        yield Taps()
    finally:
        for handle in handles:
            handle.remove()


def strictly(loaded):
    """The model of a `from_pretrained(..., output_loading_info=True)`; every name must fit."""
    model, info = loaded
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise ValueError(f"weights do not fit the model: {wrong}")
    return model.eval()
