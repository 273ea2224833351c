"""Compares animations as this program reads them with Pillow and with a plain definition.

    cargo build --release -p anyid-tests --example frames
    python3 tests/reference/animations.py target/release/examples/frames [--count 3000] [--seed 1]

Makes random GIF, APNG and WebP files, block by block, so that they hold what no writer of Pillow
makes: every disposal and blending, offsets, local palettes, interlacing, depths from 1 to 16 bits,
default images outside the animation, missing end marks, zero delays. Some are written by Pillow.
What the reader gives is compared frame by frame, over black, with

* the definition (`compose` below, in floating point): within one level for each layer that blends;
* Pillow, within the same: except where Pillow is known to differ from browsers, and there the file
  is counted under the name of that difference (`notes` below).

Ends with 1 when anything else differs. Needs Pillow and NumPy.

    python3 tests/reference/animations.py --write runtime/files/src/media/testdata/animations

writes the small fixed set that the tests read, with the sizes, durations and SHA-256 of what the
definition says. Its layers are wholly opaque or wholly transparent, so there is nothing to round.
"""

import argparse
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
from PIL import Image, ImageSequence

KEEP, BACKGROUND, PREVIOUS = 0, 1, 2


# ---- what an animation is ------------------------------------------------------------------


class Layer:
    """One frame: where it stands, its RGBA pixels, and what happens before and after it."""

    def __init__(self, x, y, rgba, dispose, over, delay):
        self.x, self.y, self.rgba, self.dispose = x, y, rgba, dispose
        self.over, self.delay = over, delay  # delay in milliseconds

    def box(self):
        height, width = self.rgba.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def compose(width, height, layers):
    """The frames over black: the definition, with a transparent canvas, in floating point."""
    colour = np.zeros((height, width, 3))  # premultiplied
    alpha = np.zeros((height, width, 1))
    frames = []
    for layer in layers:
        rows, columns = layer.box()
        before = colour.copy(), alpha.copy()
        a = layer.rgba[..., 3:] / 255.0
        c = layer.rgba[..., :3] * a
        target = colour[rows, columns]
        part = slice(0, target.shape[0]), slice(0, target.shape[1])
        a, c = a[part], c[part]
        keep = (1 - a) if layer.over else 0.0
        colour[rows, columns] = c + colour[rows, columns] * keep
        alpha[rows, columns] = a + alpha[rows, columns] * keep
        frames.append(colour.copy())
        if layer.dispose == BACKGROUND:
            colour[rows, columns] = 0
            alpha[rows, columns] = 0
        elif layer.dispose == PREVIOUS:
            colour, alpha = before
    return frames


def pixels(rng, height, width, colours, alphas):
    """Blocks of random colours: packs well, and has edges."""
    small = rng.integers(0, colours, (height // 3 + 1, width // 3 + 1))
    index = np.kron(small, np.ones((3, 3), int))[:height, :width]
    table = rng.integers(0, 256, (colours, 3))
    alpha = rng.choice(alphas, colours)
    return index, table, alpha


# ---- GIF -----------------------------------------------------------------------------------


def lzw(indices, bits, rng):
    """Packs; sometimes clears the table early, which is allowed anywhere."""
    clear, end = 1 << bits, (1 << bits) + 1
    out, acc, count = bytearray(), 0, 0

    def put(code, size):
        nonlocal acc, count
        acc |= code << count
        count += size
        while count >= 8:
            out.append(acc & 255)
            acc >>= 8
            count -= 8

    size = bits + 1
    table = {(i,): i for i in range(clear)}
    put(clear, size)
    word = ()
    for value in indices:
        longer = word + (int(value),)
        if longer in table:
            word = longer
            continue
        put(table[word], size)
        table[longer] = len(table) + 2
        if len(table) + 1 == 1 << size and size < 12:
            size += 1
        word = (int(value),)
        if len(table) + 2 >= 4095 or rng.random() < 0.001:
            put(table[word], size)
            if len(table) + 2 == 1 << size and size < 12:
                size += 1
            put(clear, size)
            table = {(i,): i for i in range(clear)}
            size = bits + 1
            word = ()
    if word:
        put(table[word], size)
        if len(table) + 2 == 1 << size and size < 12:
            size += 1
    put(end, size)
    if count:
        out.append(acc & 255)
    return bytes(out)


def sub_blocks(data, rng):
    out, at = b"", 0
    while at < len(data):
        size = 255 if rng.random() < 0.7 else int(rng.integers(1, 256))
        piece = data[at : at + size]
        out += bytes([len(piece)]) + piece
        at += len(piece)
    return out + b"\0"


def gif(rng, wild):
    width, height = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    count = int(rng.integers(1, 7))
    global_bits = int(rng.integers(1, 9))
    global_table = rng.integers(0, 256, (1 << global_bits, 3))
    out = b"GIF89a" + struct.pack("<HH", width, height)
    out += bytes([0x80 | (global_bits - 1), int(rng.integers(0, 1 << global_bits)), 0])
    out += bytes(global_table.astype(np.uint8))
    if rng.random() < 0.8:
        out += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", int(rng.integers(0, 4))) + b"\0"
    layers, notes = [], set()
    disposal_before = 0
    all_transparent = rng.random() < 0.6
    for number in range(count):
        whole = (number == 0 and not wild) or rng.random() < 0.25
        w = width if whole else int(rng.integers(1, width + 1))
        h = height if whole else int(rng.integers(1, height + 1))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        if wild and number and rng.random() < 0.15:
            x += int(rng.integers(0, 9))  # cut at the edge of the canvas
            if x + w > width:
                notes.add("a later frame enlarges the canvas")
        local = rng.random() < 0.4
        bits = int(rng.integers(1, 9)) if local else global_bits
        table = rng.integers(0, 256, (1 << bits, 3)) if local else global_table
        small = rng.integers(0, 1 << bits, (h // 3 + 1, w // 3 + 1))
        index = np.kron(small, np.ones((3, 3), int))[:h, :w]
        transparent = None
        if all_transparent or (wild and rng.random() < 0.5):
            transparent = int(index[rng.integers(0, h), rng.integers(0, w)])
            if rng.random() < 0.3:
                transparent = int(rng.integers(0, 1 << bits))
        code = int(rng.choice([0, 1, 2, 3]))
        if not wild:
            if code == 0 or (code >= 2 and not all_transparent):
                code = 1
        if code == 0 and disposal_before:
            notes.add("no disposal means that of the frame before")
        if code:
            disposal_before = code
        if transparent is None and (code >= 2 or disposal_before >= 2):
            notes.add("a background colour is painted")
        if number == 0 and not (w == width and h == height) and transparent is None:
            notes.add("a background colour is painted")
        if transparent is not None and not all_transparent:
            notes.add("transparency of some frames only")
        delay = int(rng.choice([0, 1, 2, 5, 10, 100]))
        flags = code << 2 | (transparent is not None)
        out += b"!\xf9\x04" + bytes([flags]) + struct.pack("<H", delay)
        out += bytes([transparent or 0, 0])
        if rng.random() < 0.2:
            out += b"!\xfe" + sub_blocks(b"a comment" * 40, rng)
        interlaced = rng.random() < 0.3
        flags = (0x80 | (bits - 1) if local else 0) | (0x40 if interlaced else 0)
        out += b"," + struct.pack("<HHHHB", x, y, w, h, flags)
        if local:
            out += bytes(table.astype(np.uint8))
        rows = index
        if interlaced:
            order = [*range(0, h, 8), *range(4, h, 8), *range(2, h, 4), *range(1, h, 2)]
            rows = index[order]
        code_bits = max(2, bits)
        out += bytes([code_bits]) + sub_blocks(lzw(rows.flatten(), code_bits, rng), rng)
        rgba = np.concatenate([table[index], np.full((h, w, 1), 255)], 2)
        if transparent is not None:
            rgba[index == transparent, 3] = 0
        dispose = {2: BACKGROUND, 3: PREVIOUS}.get(code, KEEP)
        layers.append(Layer(x, y, rgba, dispose, True, delay * 10))
    if rng.random() < 0.8:
        out += b";"
        if rng.random() < 0.2:
            out += b"trailing words"
    return "gif", out, width, height, layers, notes


# ---- APNG ----------------------------------------------------------------------------------


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_rows(samples, depth, rng):
    """Rows of samples (height, width, channels) as filtered bytes."""
    height, width, channels = samples.shape
    if height == 0 or width == 0:
        return b""
    if depth == 16:
        packed = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        packed = samples.astype(np.uint8).reshape(height, -1)
    else:
        flat = samples.reshape(height, -1).astype(np.uint8)
        bits = np.unpackbits(flat[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
        packed = np.packbits(bits, axis=1)
    step = max(1, channels * depth // 8)
    out = b""
    above = np.zeros(packed.shape[1], int)
    for row in packed.astype(int):
        left = np.concatenate([np.zeros(step, int), row])[: len(row)]
        corner = np.concatenate([np.zeros(step, int), above])[: len(row)]
        kind = int(rng.integers(0, 5))
        p = left + above - corner
        pa, pb, pc = abs(p - left), abs(p - above), abs(p - corner)
        paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
        guess = [0, left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + bytes(((row - guess) & 255).astype(np.uint8))
        above = row
    return out


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]


def png_data(samples, depth, interlaced, rng):
    if not interlaced:
        raw = png_rows(samples, depth, rng)
    else:
        raw = b"".join(png_rows(samples[y::v, x::h], depth, rng) for x, y, h, v in ADAM7)
    return zlib.compress(raw, int(rng.integers(0, 10)))


def pieces(data, rng):
    cuts = sorted(int(c) for c in rng.integers(0, len(data) + 1, int(rng.integers(0, 3))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]


def apng(rng, wild):
    width, height = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    count = int(rng.integers(1, 7))
    kind, depth = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4),
                   (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)][int(rng.integers(0, 15))]
    interlaced = rng.random() < 0.3
    top = (1 << depth) - 1
    table = rng.integers(0, 256, (1 << min(depth, 8), 3))
    table_alpha = np.full(len(table), 255)
    notes = set()
    binary = not wild
    out = b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced)))
    trns = None
    if kind == 3:
        out += png_chunk(b"PLTE", bytes(table.astype(np.uint8)))
        if rng.random() < 0.6:
            known = int(rng.integers(1, len(table) + 1))
            table_alpha[:known] = rng.choice([0, 255] if binary else [0, 60, 128, 255], known)
            out += png_chunk(b"tRNS", bytes(table_alpha[:known].astype(np.uint8)))
    elif kind in (0, 2) and depth <= 8 and rng.random() < 0.5:
        trns = rng.integers(0, top + 1, 1 if kind == 0 else 3)
        out += png_chunk(b"tRNS", b"".join(struct.pack(">H", int(v)) for v in trns))
    out += png_chunk(b"acTL", struct.pack(">II", count, int(rng.integers(0, 3))))
    sequence = 0

    def picture(h, w):
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
        small = rng.integers(0, top + 1, (h // 3 + 1, w // 3 + 1, channels))
        if kind in (4, 6):
            choice = [0, top] if binary else [0, top // 4, top // 2, top]
            small[..., -1] = rng.choice(choice, small.shape[:2])
        if trns is not None and rng.random() < 0.8:
            small[rng.random(small.shape[:2]) < 0.3] = trns
        samples = np.kron(small, np.ones((3, 3, 1), int))[:h, :w]
        eight = samples * 255.0 / top
        if kind == 3:
            rgba = np.concatenate([table[samples[..., 0]], table_alpha[samples[..., 0]][..., None]], 2)
        elif kind in (0, 4):
            alpha = eight[..., 1:] if kind == 4 else np.full((h, w, 1), 255.0)
            rgba = np.concatenate([eight[..., :1]] * 3 + [alpha], 2)
        else:
            alpha = eight[..., 3:] if kind == 6 else np.full((h, w, 1), 255.0)
            rgba = np.concatenate([eight[..., :3], alpha], 2)
        if trns is not None:
            rgba[(samples == trns).all(2), 3] = 0
        return samples, rgba

    outside = wild and rng.random() < 0.5
    if outside:
        out += png_chunk(b"IDAT", png_data(picture(height, width)[0], depth, interlaced, rng))
    layers = []
    for number in range(count):
        first = number == 0 and not outside
        whole = first or rng.random() < 0.2
        w = width if whole else int(rng.integers(1, width + 1))
        h = height if whole else int(rng.integers(1, height + 1))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        samples, rgba = picture(h, w)
        dispose, over = int(rng.integers(0, 3)), bool(rng.integers(0, 2))
        if not wild:
            # What Pillow and browsers agree about.
            over = over and dispose != PREVIOUS
            dispose = dispose if kind in (4, 6) else KEEP
        num, den = int(rng.choice([0, 1, 3, 10, 50])), int(rng.choice([0, 1, 30, 60, 100, 1000]))
        delay = num * 1000 / (den or 100)
        out += png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, w, h, x, y, num, den, dispose,
                                              over))
        sequence += 1
        data = png_data(samples, depth, interlaced, rng)
        for piece in pieces(data, rng):
            if first:
                out += png_chunk(b"IDAT", piece)
            else:
                out += png_chunk(b"fdAT", struct.pack(">I", sequence) + piece)
                sequence += 1
        semi = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
        if over and semi.any():
            notes.add("half transparent layers over transparent ones")
        layers.append(Layer(x, y, rgba, dispose, over, delay))
    if interlaced and count > 1:
        notes.add("interlaced frames are not read")
    if outside:
        notes.add("the default image stays under the animation")
    if any(layer.over and layer.dispose == PREVIOUS for layer in layers):
        notes.add("what an over layer covered is not restored")
    if kind not in (4, 6) and any(layer.dispose != KEEP for layer in layers):
        notes.add("a canvas without alpha is not cleared")
    if kind == 4 or kind == 0 and (depth in (1, 16) or trns is not None):
        notes.add("some kinds of grey are not read")
    if rng.random() < 0.95:
        out += png_chunk(b"IEND", b"")
    return "png", out, width, height, layers, notes


# ---- WebP ----------------------------------------------------------------------------------


def riff_chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def three(value):
    return struct.pack("<I", value)[:3]


def webp(rng, wild):
    width, height = int(rng.integers(2, 48)), int(rng.integers(2, 48))
    layers, body = [], b""
    for _ in range(int(rng.integers(1, 7))):
        whole = rng.random() < 0.2
        w = width if whole else int(rng.integers(1, width + 1))
        h = height if whole else int(rng.integers(1, height + 1))
        x = int(rng.integers(0, (width - w) // 2 + 1)) * 2
        y = int(rng.integers(0, (height - h) // 2 + 1)) * 2
        alphas = [0, 255] if not wild else [0, 60, 128, 255]
        if rng.random() < 0.3:
            alphas = [255]
        index, table, alpha = pixels(rng, h, w, int(rng.integers(2, 20)), alphas)
        rgba = np.concatenate([table[index], alpha[index][..., None]], 2).astype(np.uint8)
        still = io.BytesIO()
        opaque = (rgba[..., 3] == 255).all()
        picture = Image.fromarray(rgba[..., :3] if opaque else rgba)
        lossless = rng.random() < 0.6
        picture.save(still, "WEBP", lossless=lossless, quality=int(rng.integers(20, 100)), method=2,
                     exact=True, alpha_quality=int(rng.choice([50, 100])))
        decoded = Image.open(io.BytesIO(still.getvalue())).convert("RGBA")
        stream, at = b"", 12
        still = still.getvalue()
        while at < len(still):
            size = struct.unpack("<I", still[at + 4 : at + 8])[0]
            end = at + 8 + size + size % 2
            if still[at : at + 4] in (b"VP8 ", b"VP8L", b"ALPH"):
                stream += still[at:end]
            at = end
        dispose, source = int(rng.integers(0, 2)), int(rng.integers(0, 2))
        delay = int(rng.choice([0, 5, 11, 16, 40, 1000]))
        body += riff_chunk(b"ANMF", three(x // 2) + three(y // 2) + three(w - 1) + three(h - 1)
                           + three(delay) + bytes([source << 1 | dispose]) + stream)
        layers.append(Layer(x, y, np.asarray(decoded).astype(int), dispose, not source, delay))
    head = bytes([0x12, 0, 0, 0]) + three(width - 1) + three(height - 1)
    anim = bytes(rng.integers(0, 256, 4).astype(np.uint8)) + b"\0\0"
    body = b"WEBP" + riff_chunk(b"VP8X", head) + riff_chunk(b"ANIM", anim) + body
    return "webp", b"RIFF" + struct.pack("<I", len(body)) + body, width, height, layers, set()


def by_pillow(rng, _):
    """An animation from Pillow's own writers; its definition is what Pillow reads."""
    kind = str(rng.choice(["GIF", "PNG", "WEBP"]))
    width, height = int(rng.integers(2, 40)), int(rng.integers(2, 40))
    frames = []
    base = pixels(rng, height, width, 12, [255])
    for _ in range(int(rng.integers(1, 6))):
        index, table, alpha = base if rng.random() < 0.5 else pixels(
            rng, height, width, 12, [0, 255])
        rgba = np.concatenate([table[index], alpha[index][..., None]], 2).astype(np.uint8)
        rgba[int(rng.integers(0, height)) :, : int(rng.integers(0, width))] = rng.integers(0, 256, 4)
        rgba[..., 3] = np.where(rgba[..., 3] > 127, 255, 0)
        frames.append(Image.fromarray(rgba))
    out = io.BytesIO()
    extra = {"lossless": True} if kind == "WEBP" else {"disposal": int(rng.integers(0, 3))}
    if kind == "PNG":
        extra["blend"] = int(rng.integers(0, 2))
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=70, **extra)
    notes = set()
    if kind == "GIF" and extra["disposal"] == 2:
        notes.add("a background colour is painted")
    if kind == "PNG" and extra["disposal"] == 2 and extra["blend"] == 1:
        notes.add("what an over layer covered is not restored")
    return kind.lower(), out.getvalue(), None, None, None, notes


# ---- comparing -----------------------------------------------------------------------------


def pillow_frames(data):
    """Over black; None where Pillow refuses."""
    try:
        picture = Image.open(io.BytesIO(data))
        default = getattr(picture, "default_image", False)
        frames = []
        for frame in ImageSequence.Iterator(picture):
            rgba = np.asarray(frame.convert("RGBA")).astype(float)
            frames.append(rgba[..., :3] * rgba[..., 3:] / 255)
        return frames[1:] if default else frames
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def far(a, b):
    if isinstance(a, str) or isinstance(b, str) or len(a) != len(b):
        return 999.0
    return max((np.abs(x - y).max() if x.shape == y.shape else 999.0) for x, y in zip(a, b))


def write_set(folder):
    """Twelve animations of each kind, and what they must give."""
    os.makedirs(folder, exist_ok=True)
    lines = []
    for maker in (gif, apng, webp):
        number = written = 0
        while written < 12:
            number += 1
            rng = np.random.default_rng((99, number))
            kind, data, width, height, layers, notes = maker(rng, bool(number % 2))
            sharp = all(np.isin(layer.rgba[..., 3], (0, 255)).all() for layer in layers)
            whole = all((layer.rgba % 1 == 0).all() for layer in layers)
            if kind == "webp" and b"VP8 " in data:
                sharp = False  # lossy: decoders may round
            if not (sharp and whole) or len(layers) < 2 or len(data) > 6000:
                continue
            name = f"{written:02}.{kind}"
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
            frames = b"".join(
                np.rint(frame).astype(np.uint8).tobytes()
                for frame in compose(width, height, layers))
            delays = [100.0 if layer.delay <= 10 else layer.delay for layer in layers]
            shown = ",".join(f"{delay:.2f}" for delay in delays)
            digest = hashlib.sha256(frames).hexdigest()
            lines.append(f"{name} {width} {height} {shown} {digest}\n")
            written += 1
    with open(os.path.join(folder, "expected.txt"), "w") as file:
        file.writelines(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", nargs="?", help="the built example `frames`")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="a folder for files that differ")
    parser.add_argument("--write", help="writes the fixed set into this folder")
    arguments = parser.parse_args()
    if arguments.write:
        return write_set(arguments.write)
    if not arguments.frames:
        parser.error("name the built example `frames`")
    reader = subprocess.Popen([arguments.frames], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    known, worst, bad, agreed = {}, {}, 0, {}
    makers = [gif, apng, webp, by_pillow]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.count):
            rng = np.random.default_rng((arguments.seed, number))
            random.seed(number)
            maker, wild = makers[number % 4], bool((number // 4) % 2)
            kind, data, _, _, layers, notes = made = maker(rng, wild)
            path = os.path.join(folder, f"{number}.{kind}")
            with open(path, "wb") as file:
                file.write(data)
            reader.stdin.write((path + "\n").encode())
            reader.stdin.flush()
            told = json.loads(reader.stdout.readline())
            problem = None
            theirs = pillow_frames(data)
            if "error" in told:
                problem = f"refused: {told['message']}"
            else:
                w, h, n = told["width"], told["height"], told["frames"]
                raw = reader.stdout.read(w * h * 3 * n)
                ours = np.frombuffer(raw, np.uint8).reshape(n, h, w, 3).astype(float)
                ours = list(ours)
                # A level for the rounding of each layer; Pillow and libwebp round downwards.
                allowed = 1.01 if layers is None else 1.01 + 0.75 * len(layers)
                if layers is not None:
                    right = compose(made[2], made[3], layers)
                    exact = far(ours, right)
                    worst[kind] = max(worst.get(kind, 0), exact if exact < 999 else 0)
                    if exact > (0.01 if kind == "gif" else 1.51):
                        problem = f"differs from the definition by {exact:.2f}"
                    delays = [layer.delay for layer in layers]
                    shown = [100.0 if d <= 10 else d for d in delays] if n > 1 else [0.0]
                    if np.abs(np.array(shown) - told["milliseconds"]).max() > 0.01:
                        problem = f"delays {told['milliseconds']}, right {shown}"
                difference = far(ours, theirs)
                if difference <= allowed:
                    agreed[kind] = agreed.get(kind, 0) + 1
                elif problem is None:
                    if notes:
                        name = f"{kind}: " + ", ".join(sorted(notes))
                        known[name] = known.get(name, 0) + 1
                    else:
                        what = theirs if isinstance(theirs, str) else f"{difference:.2f}"
                        problem = f"differs from Pillow by {what}"
            if problem:
                bad += 1
                print(f"{number}.{kind} ({'wild' if wild else 'tame'}; {sorted(notes)}): {problem}")
                if arguments.keep:
                    os.makedirs(arguments.keep, exist_ok=True)
                    with open(os.path.join(arguments.keep, f"{number}.{kind}"), "wb") as file:
                        file.write(data)
            os.remove(path)
    print(f"{arguments.count} animations, {bad} wrong")
    print("equal to Pillow:", ", ".join(f"{k} {v}" for k, v in sorted(agreed.items())))
    print("largest difference from the definition:",
          ", ".join(f"{k} {v:.2f}" for k, v in sorted(worst.items())))
    for name, count in sorted(known.items(), key=lambda item: -item[1]):
        print(f"Pillow differs, {count}: {name}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
