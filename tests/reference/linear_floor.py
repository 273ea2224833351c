"""How well a linear code of the same size keeps clips of the drawn world: the floor of an autoencoder.

    python linear_floor.py TRAIN/manifest.jsonl HELD/manifest.jsonl [--channels 24] [--side 8] [--clips 2000]

A first frame is cut into squares, of which each becomes so many numbers by principal components; the later
frames of a clip go together, four squares of one place each time, as in the autoencoder. Components are
those of the first manifest's clips, the PSNR in dB is the mean over the second one's. Needs numpy and Pillow.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence


def clips(manifest, count):
    """First frames `[N,H,W,3]` and later frames `[N,4,H,W,3]`, in [-1, 1]."""
    files, out = {}, []
    with manifest.open() as lines:
        for line in lines:
            target = json.loads(line)["target"]
            if target.get("frames") != 5:
                continue
            path = manifest.parent / target["media"]
            if path not in files:
                frames = ImageSequence.Iterator(Image.open(path))
                files[path] = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
            out.append(files[path][target["start"] : target["start"] + 5])
            if len(out) == count:
                break
    pixels = np.stack(out).astype(np.float32) / 127.5 - 1
    return pixels[:, 0], pixels[:, 1:]


def squares(first, later, side):
    """A row for each square: of first frames, and of four later frames together."""

    def cut(pictures):
        n, height, width, _ = pictures.shape
        cut = pictures.reshape(n, height // side, side, width // side, side, 3)
        return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, side * side * 3)

    n, frames = later.shape[:2]
    parts = cut(later.reshape(n * frames, *later.shape[2:])).reshape(n, frames, -1, side * side * 3)
    return cut(first), parts.transpose(0, 2, 1, 3).reshape(n, -1, frames * side * side * 3)


def components(rows, count):
    rows = rows.reshape(-1, rows.shape[-1])
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    return mean, vectors[:, np.argsort(values)[::-1][:count]]


def psnr(rows, code):
    mean, vectors = code
    kept = (rows - mean) @ vectors @ vectors.T + mean
    square = ((np.clip(kept, -1, 1) - rows) ** 2).mean((1, 2))
    return (10 * np.log10(4 / np.maximum(square, 1e-12))).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--clips", type=int, default=2000)
    options = parser.parse_args()
    train = squares(*clips(options.train, options.clips), options.side)
    held = squares(*clips(options.held, options.clips), options.side)
    for name, rows, other in zip(("first frame", "later frames"), train, held):
        print(f"{name}: {psnr(other, components(rows, options.channels)):.2f} dB, {len(other)} clips")


if __name__ == "__main__":
    main()
