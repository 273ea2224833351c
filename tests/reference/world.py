"""Makes the frames that version 1 of the world is compared with.

    python3 tests/reference/world.py PROTOTYPE [--out models/world/tests/golden]

PROTOTYPE is the folder of the program in which the world was first made: `render.c`, which paints
a frame with the C library's mathematics, and `world.py`, which draws people and clips with NumPy.
200 random frames are described in `frames.jsonl` (classes, shades and time of each, one line a
frame) and painted in `frames.webp` (lossless), 20 to a row. The comparison, within one level of 255, is a test
of the crate `anyid-world`; it needs neither Python nor the prototype.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

COUNT, ACROSS = 200, 20


def load(folder, scratch):
    """The prototype's module, with its renderer compiled strictly: no fused multiplications."""
    library = os.path.join(scratch, "librender.so")
    source = os.path.join(folder, "render.c")
    flags = ["-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    subprocess.run(["cc", *flags, "-o", library, source, "-lm"], check=True)
    os.environ["MICRO_OUT"] = scratch
    spec = importlib.util.spec_from_file_location("prototype", os.path.join(folder, "world.py"))
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    return module


def describe(world, identity, clip, view, time):
    """A frame in this repository's terms: classes in the order of the crate's lists."""
    attributes = [identity[name] for name in world.ID_ATTR]
    hair, clothing, place = clip["hair"], clip["cloth"], clip["bg"]
    # There is one pose only: actions say where the head faces.
    slots = [clip["shot"][0], *hair[:2], *clothing[:2], clip["acc"][0], clip["expr"][0], 0,
             clip["action"][0], place[0]]
    return {"identity": attributes, "width": identity["rx_j"], "clip": slots,
            "shades": [hair[2], clothing[2], place[1]], "wobble": clip["jit"],
            "view": view, "time": time}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prototype")
    parser.add_argument("--out", default="models/world/tests/golden")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        world = load(options.prototype, scratch)
        lines, frames = [], []
        for number in range(COUNT):
            identity, clips, random = world.make_group(number)
            clip = clips[number % len(clips)]
            view = ("frame", "frame", "face", "portrait")[number % 4]
            time = int(random.integers(5)) / 4 if view == "frame" else round(random.random(), 3)
            # Short numbers, so that the description is the frame's to the last bit.
            clip["jit"] = [round(value, 3) for value in clip["jit"]]
            identity["rx_j"] = round(identity["rx_j"], 4)
            crop = None if view == "frame" else view
            frames.append(world.render(world.frame_params(identity, clip, time, crop))[0])
            description = describe(world, identity, clip, view, time)
            lines.append(json.dumps(description, separators=(",", ":")))
    rows = [np.concatenate(frames[at:at + ACROSS], 1) for at in range(0, COUNT, ACROSS)]
    os.makedirs(options.out, exist_ok=True)
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.save(os.path.join(options.out, "frames.webp"), lossless=True, quality=100, method=6)
    with open(os.path.join(options.out, "frames.jsonl"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
