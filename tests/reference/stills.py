"""Compares still pictures as this program reads them with Pillow, over a broad random corpus.

    cargo build --release -p anyid-tests --example frames
    python3 tests/reference/stills.py target/release/examples/frames [--count 2000] [--seed 1]

Every size, mode and option that Pillow writes (JPEG: quality, subsampling, progressive, restart
marks, CMYK, grey, RGB; PNG: every mode, 16 bits, transparency; WebP: lossy, lossless, alpha; BMP;
GIF), with EXIF orientations; where there is an `ffmpeg`, JPEGs of unusual subsampling too. What is
compared is the picture as shown: upright, and over black. Prints the largest and the mean
difference of each kind, in levels of 255; ends with 1 when a lossless kind differs by more than
rounding, or a lossy one by more than decoders may.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageOps

# Kinds that are decoded by rounding of their own: largest and mean difference allowed. Chroma is
# interpolated differently between decoders, which shows at hard edges.
LOSSY = {"jpeg 4:4:4": (4, 0.6), "jpeg grey": (3, 0.6), "jpeg CMYK": (8, 1.2), "jpeg RGB": (4, 0.6),
         "jpeg 4:2:2": (24, 2.0), "jpeg 4:2:0": (24, 2.0), "jpeg odd": (24, 2.0),
         "webp lossy": (2, 0.3), "webp lossy alpha": (2, 0.3)}


def scene(rng, width, height, channels):
    """Smooth colours with some edges, like a photograph."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.zeros((height, width, channels))
    for channel in range(channels):
        a, b, c = rng.normal(0, 0.15, 2), rng.uniform(0, 6), rng.uniform(20, 120)
        out[..., channel] = 128 + c * np.sin(a[0] * x + a[1] * y + b)
    left, top = rng.integers(0, width), rng.integers(0, height)
    out[top:, left:] = 255 - out[top:, left:]
    return np.clip(out, 0, 255).astype(np.uint8)


def exif(rng):
    if rng.random() < 0.6:
        return {}
    block = Image.Exif()
    block[0x0112] = int(rng.integers(1, 9))
    return {"exif": block}


def jpeg(rng, width, height):
    mode = str(rng.choice(["RGB", "RGB", "L", "CMYK", "keep"]))
    channels = {"L": 1, "CMYK": 4}.get(mode, 3)
    data = scene(rng, width, height, channels)
    picture = Image.fromarray(data[..., 0] if channels == 1 else data,
                              {"L": "L", "CMYK": "CMYK"}.get(mode, "RGB"))
    sampling = int(rng.integers(0, 3))
    options = {"quality": int(rng.integers(30, 101)), "subsampling": sampling,
               "progressive": bool(rng.integers(0, 2)), "optimize": bool(rng.integers(0, 2)),
               **exif(rng)}
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = int(rng.integers(1, 20))
    if mode == "keep":
        options["keep_rgb"] = True
        options["subsampling"] = 0
    kind = {"L": "grey", "CMYK": "CMYK", "keep": "RGB"}.get(
        mode, ["4:4:4", "4:2:2", "4:2:0"][sampling])
    if mode == "CMYK":
        options["subsampling"] = 0
    return "jpeg " + kind, "jpg", picture, options


def png(rng, width, height):
    mode = str(rng.choice(["1", "L", "LA", "RGB", "RGBA", "P", "I;16", "trns", "Ptrns"]))
    options = {"optimize": bool(rng.integers(0, 2)), **exif(rng)}
    if mode == "I;16":
        wide = scene(rng, width, height, 1)[..., 0].astype(np.uint16)
        return "png 16", "png", Image.fromarray(wide * 257), options
    channels = {"1": 1, "L": 1, "LA": 2, "RGBA": 4}.get(mode, 3)
    data = scene(rng, width, height, channels)
    picture = Image.fromarray(data[..., 0] if channels == 1 else data)
    if mode == "1":
        picture = picture.convert("1")
    if mode in ("P", "Ptrns"):
        colours = int(rng.choice([2, 3, 4, 15, 16, 17, 256]))
        picture = picture.quantize(colours)
        if mode == "Ptrns":
            options["transparency"] = bytes(rng.integers(0, 256, colours).astype(np.uint8))
    if mode == "trns":
        options["transparency"] = tuple(int(v) for v in data[0, 0])
    return "png " + mode, "png", picture, options


def webp(rng, width, height):
    alpha = bool(rng.integers(0, 2))
    picture = Image.fromarray(scene(rng, width, height, 4 if alpha else 3))
    lossless = bool(rng.integers(0, 2))
    options = {"lossless": lossless, "quality": int(rng.integers(1, 101)),
               "method": int(rng.integers(0, 7)), "alpha_quality": int(rng.choice([30, 100])),
               "exact": bool(rng.integers(0, 2)), **exif(rng)}
    kind = "webp " + ("lossless" if lossless else "lossy") + (" alpha" if alpha else "")
    return kind, "webp", picture, options


def bmp(rng, width, height):
    mode = str(rng.choice(["1", "L", "P", "RGB", "RGBA"]))
    channels = {"1": 1, "L": 1, "RGBA": 4}.get(mode, 3)
    data = scene(rng, width, height, channels)
    picture = Image.fromarray(data[..., 0] if channels == 1 else data)
    picture = picture.convert("1") if mode == "1" else picture
    picture = picture.quantize(int(rng.integers(2, 256))) if mode == "P" else picture
    return "bmp " + mode, "bmp", picture, {}


def gif(rng, width, height):
    picture = Image.fromarray(scene(rng, width, height, 3)).quantize(int(rng.integers(2, 257)))
    options = {"interlace": int(rng.integers(0, 2))}
    if rng.random() < 0.5:
        options["transparency"] = 0
    return "gif", "gif", picture, options


def odd_jpeg(rng, width, height, folder):
    """4:1:1, 4:4:0 and others, by ffmpeg."""
    source, path = os.path.join(folder, "in.png"), os.path.join(folder, "odd.jpg")
    Image.fromarray(scene(rng, width, height, 3)).save(source)
    layout = str(rng.choice(["yuvj411p", "yuvj440p", "yuvj410p", "gray", "yuvj420p"]))
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, "-pix_fmt", layout,
                           "-strict", "unofficial", "-q:v", str(int(rng.integers(2, 12))), path],
                          capture_output=True)
    if done.returncode:
        return None
    with open(path, "rb") as file:
        return file.read()


def over_black(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(float) / 257
        return np.repeat(grey[..., None], 3, 2)
    rgba = np.asarray(picture.convert("RGB").convert("RGBA") if picture.mode == "CMYK"
                      else picture.convert("RGBA")).astype(float)
    return rgba[..., :3] * rgba[..., 3:] / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", help="the built example `frames`")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="a folder for files that differ")
    arguments = parser.parse_args()
    reader = subprocess.Popen([arguments.frames], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    figures, bad = {}, 0
    makers = [jpeg, png, webp, bmp, gif, jpeg, png, webp]
    if shutil.which("ffmpeg"):
        makers.append(odd_jpeg)
    else:
        print("without JPEGs of unusual subsampling: no ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.count):
            rng = np.random.default_rng((arguments.seed, number))
            width, height = (int(v) for v in rng.integers(1, 90, 2))
            maker = makers[number % len(makers)]
            if maker is odd_jpeg:
                data = odd_jpeg(rng, width + 8, height + 8, folder)
                if data is None:
                    continue
                kind, suffix = "jpeg odd", "jpg"
            else:
                kind, suffix, picture, options = maker(rng, width, height)
                out = io.BytesIO()
                picture.save(out, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
                data = out.getvalue()
            path = os.path.join(folder, f"{number}.{suffix}")
            with open(path, "wb") as file:
                file.write(data)
            reader.stdin.write((path + "\n").encode())
            reader.stdin.flush()
            told = json.loads(reader.stdout.readline())
            problem = None
            if "error" in told:
                problem = f"refused: {told['message']}"
            else:
                raw = reader.stdout.read(told["width"] * told["height"] * 3)
                ours = np.frombuffer(raw, np.uint8).reshape(told["height"], told["width"], 3)
                theirs = over_black(data)
                if ours.shape != theirs.shape:
                    problem = f"{ours.shape}, Pillow {theirs.shape}"
                else:
                    off = np.abs(ours - theirs)
                    worst, mean = figures.get(kind, (0, 0))
                    figures[kind] = max(worst, off.max()), max(mean, off.mean())
                    most = LOSSY.get(kind, (1.01, 1.0))
                    if off.max() > most[0] or off.mean() > most[1]:
                        problem = f"differs by {off.max():.2f}, on the mean {off.mean():.3f}"
            if problem:
                bad += 1
                print(f"{number}.{suffix} ({kind}, {width}x{height}): {problem}")
                if arguments.keep:
                    os.makedirs(arguments.keep, exist_ok=True)
                    shutil.copy(path, arguments.keep)
            os.remove(path)
    for kind, (worst, mean) in sorted(figures.items()):
        print(f"{kind}: largest difference {worst:.2f}, largest mean {mean:.3f}")
    print(f"{arguments.count} pictures, {bad} wrong")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
