"""Tiny networks with the inputs and outputs of detectors and encoders, and what is right for each.

    python detectors.py ../../runtime/study/tests/models

Each network plants boxes at chosen cells, and its scores are pixels of its input, so that a result is
right only if the picture was scaled, ordered and normalised as the contract says. `expected.json` has
what numpy, and Pillow for bicubic scaling, make of the published formulas (data.md §3). With zeros as
constants (`Graph.zeros`), the files can be read by OpenCV 5, whose FaceDetectorYN and FaceRecognizerSF
give the same numbers for YuNet and SFace. Needs numpy, onnx and Pillow.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

OUT = pathlib.Path(sys.argv[1])
WIDTH, HEIGHT = 320, 240


def picture():
    """The picture of the tests: red grows to the right, green downward, blue falls downward."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([np.minimum(x, 255), y, 255 - y], axis=-1).astype(np.float64)


def bilinear(image, width, height):
    """OpenCV's INTER_LINEAR, rounded to bytes."""

    def taps(old, new):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, v = taps(image.shape[0], height)
    x0, x1, u = taps(image.shape[1], width)
    wide = image[:, x0] * (1 - u)[None, :, None] + image[:, x1] * u[None, :, None]
    return np.round(wide[y0] * (1 - v)[:, None, None] + wide[y1] * v[:, None, None])


class Graph:
    """A graph that is put together from constants and parts of its input."""

    def __init__(self, inputs):
        self.inputs = [helper.make_tensor_value_info(*value) for value in inputs]
        self.nodes, self.constants, self.outputs = [], [], []

    def name(self, stem="v"):
        return f"{stem}{len(self.nodes) + len(self.constants)}"

    def constant(self, value, kind=np.float32):
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def op(self, kind, inputs, **attributes):
        name = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def zeros(self, *shape):
        return self.op("ConstantOfShape", [self.constant(shape, np.int64)])

    def pixel(self, source, channel, y, x):
        """A pixel of the input as a tensor [1, 1]."""
        starts = self.constant([channel, y, x], np.int64)
        ends = self.constant([channel + 1, y + 1, x + 1], np.int64)
        part = self.op("Slice", [source, starts, ends, self.constant([1, 2, 3], np.int64)])
        return self.op("Reshape", [part, self.constant([1, 1], np.int64)])

    def rows(self, count, width, planted):
        """A matrix of zeros with some rows: numbers, or tensors [1, width] by name."""
        parts, at = [], 0
        for row in sorted(planted):
            if row > at:
                parts.append(self.zeros(row - at, width))
            value = planted[row]
            parts.append(value if isinstance(value, str) else self.constant([value]))
            at = row + 1
        if at < count:
            parts.append(self.zeros(count - at, width))
        return self.op("Concat", parts, axis=0) if len(parts) > 1 else parts[0]

    def output(self, value, name, shape, kind=TensorProto.FLOAT):
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def save(self, file):
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
        )
        onnx.checker.check_model(model)
        onnx.save(model, OUT / file)


def face(area, score, points):
    return {"box": [float(v) for v in area], "score": float(score), "kps": np.reshape(points, (5, 2)).tolist()}


def scrfd():
    """Two boxes of stride 8 that are one face, one of stride 32, and one below the threshold."""
    side = 640
    graph = Graph([("input.1", TensorProto.FLOAT, ["N", 3, side, side])])
    scale = side / WIDTH
    small = (bilinear(picture(), side, int(HEIGHT * scale)) - 127.5) / 128
    points = np.arange(10) * 0.25 - 1
    # stride: cell x, cell y, anchor, distances, where the score is: channel, y, x
    planted = {
        8: [
            (30, 20, 0, [2, 3, 4, 5], (0, 100, 480)),
            (31, 20, 1, [3, 3, 3, 5], (0, 100, 500)),
            (60, 40, 0, [1, 1, 1, 1], (0, 100, 300)),
        ],
        32: [(12, 3, 1, [1.5, 1, 1, 2], (2, 64, 7))],
    }
    found, all_outputs = [], {}
    for stride in (8, 16, 32):
        cells = side // stride
        count = cells * cells * 2
        scores, boxes, kps = {}, {}, {}
        for x, y, anchor, distances, (c, py, px) in planted.get(stride, []):
            row = (y * cells + x) * 2 + anchor
            scores[row] = graph.pixel("input.1", c, py, px)
            boxes[row], kps[row] = distances, points
            score = small[py, px, c]
            cx, cy = x * stride, y * stride
            d = np.array(distances) * stride
            area = np.array([cx - d[0], cy - d[1], cx + d[2], cy + d[3]]) / scale
            marks = (np.array([cx, cy]) + points.reshape(5, 2) * stride) / scale
            found.append((score, face(area, score, marks)))
        all_outputs[stride] = [
            graph.rows(count, 1, scores), graph.rows(count, 4, boxes), graph.rows(count, 10, kps)
        ]
    for kind, width in enumerate((1, 4, 10)):
        for stride in (8, 16, 32):
            count = (side // stride) ** 2 * 2
            graph.output(all_outputs[stride][kind], str(440 + kind * 30 + stride), [count, width])
    graph.save("scrfd.onnx")
    found = sorted((f for f in found if f[0] >= 0.5), key=lambda f: -f[0])
    # The first two share 30 of 42 cells and more.
    return [found[0][1], found[2][1]]


def yunet():
    side = 640
    graph = Graph([("input", TensorProto.FLOAT, [1, 3, side, side])])
    image = picture()
    points = np.arange(10) * 0.5 - 2
    planted = {16: [(6, 5, [0.25, -0.5, 1.0, 1.25])], 32: [(2, 1, [0.5, 0.5, 0.0, 0.5])]}
    faces = []
    for stride in (8, 16, 32):
        cells = side // stride
        count = cells * cells
        cls, obj, box, kps = {}, {}, {}, {}
        for x, y, values in planted.get(stride, []):
            row = y * cells + x
            # Blue is the first channel; its pixels of more than 1 are as good as 1.
            cls[row] = graph.op("Mul", [graph.pixel("input", 0, 55, 9), graph.constant([[1 / 255]])])
            obj[row] = graph.pixel("input", 1, 3, 200)
            box[row], kps[row] = values, points
            score = np.sqrt(np.clip(image[55, 9, 2] / 255, 0, 1) * np.clip(image[3, 200, 1], 0, 1))
            cx, cy = (x + values[0]) * stride, (y + values[1]) * stride
            w, h = np.exp(values[2]) * stride, np.exp(values[3]) * stride
            marks = (points.reshape(5, 2) + [x, y]) * stride
            faces.append(face([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], score, marks))
        for kind, width, rows in (("cls", 1, cls), ("obj", 1, obj), ("bbox", 4, box), ("kps", 10, kps)):
            value = graph.op("Unsqueeze", [graph.rows(count, width, rows), graph.constant([0], np.int64)])
            graph.output(value, f"{kind}_{stride}", [1, count, width])
    graph.save("yunet.onnx")
    return faces


def retinaface():
    width, height = 320, 240
    graph = Graph([("input0", TensorProto.FLOAT, [1, 3, height, width])])
    priors = []
    for step, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for y in range(-(-height // step)):
            for x in range(-(-width // step)):
                priors += [((x + 0.5) * step, (y + 0.5) * step, size) for size in sizes]
    row = 1200 * 2 + 2 * (5 * 20 + 7) + 1  # stride 16, cell (7, 5), the larger size
    loc, points = [1.0, -2.0, 0.5, 1.0], np.arange(10) * 0.5 - 2
    # Blue less 104, divided so that it is a share.
    value = graph.op("Mul", [graph.pixel("input0", 0, 55, 9), graph.constant([[0.01]])])
    conf = graph.op("Concat", [graph.constant([[0.0]]), value], axis=1)
    score = (picture()[55, 9, 2] - 104) * 0.01
    px, py, size = priors[row]
    cx, cy = px + loc[0] * 0.1 * size, py + loc[1] * 0.1 * size
    w, h = size * np.exp(loc[2] * 0.2), size * np.exp(loc[3] * 0.2)
    marks = np.array([px, py]) + points.reshape(5, 2) * 0.1 * size
    one = graph.constant([0], np.int64)
    # In another order than that of the original.
    for name, size_, rows in (("a", 10, {row: points}), ("b", 2, {row: conf}), ("c", 4, {row: loc})):
        value = graph.op("Unsqueeze", [graph.rows(len(priors), size_, rows), one])
        graph.output(value, name, [1, len(priors), size_])
    graph.save("retinaface.onnx")
    return [face([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], score, marks)]


def person(area, score):
    return {"box": [float(v) for v in area], "score": float(score)}


def letterboxed():
    scale = 640 / WIDTH
    return bilinear(picture(), 640, int(HEIGHT * scale)) / 255, scale, (640 - int(HEIGHT * scale)) // 2


def yolo():
    """A person, the same once more, another class, and the grey of the border as a score."""
    graph = Graph([("images", TensorProto.FLOAT, [1, 3, 640, 640])])
    small, scale, top = letterboxed()
    score, less = graph.pixel("images", 0, 300, 500), graph.pixel("images", 1, 300, 500)
    grey = graph.pixel("images", 2, 10, 10)

    def row(box, at):
        cells = [graph.constant([box]), at[0]] if at[1] == 0 else [graph.constant([box]), graph.zeros(1, at[1]), at[0]]
        rest = 79 - at[1]
        return graph.op("Concat", cells + ([graph.zeros(1, rest)] if rest else []), axis=1)

    rows = {
        100: row([300, 320, 100, 300], (score, 0)),
        101: row([304, 320, 100, 300], (less, 0)),
        4000: row([100, 300, 50, 80], (score, 16)),
        8399: row([560, 400, 60, 120], (grey, 0)),
    }
    matrix = graph.op("Transpose", [graph.rows(8400, 84, rows)], perm=[1, 0])
    graph.output(graph.op("Unsqueeze", [matrix, graph.constant([0], np.int64)]), "output0", [1, 84, 8400])
    graph.save("yolo.onnx")

    def unfit(box):
        x, y, w, h = box
        sides = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        return (sides - [0, top, 0, top]) / scale

    return [
        person(unfit([300, 320, 100, 300]), small[300 - top, 500, 0]),
        person(unfit([560, 400, 60, 120]), 114 / 255),
    ]


def yolo_ranked():
    graph = Graph([("images", TensorProto.FLOAT, [1, 3, 640, 640])])
    small, scale, top = letterboxed()
    rows = {}
    for at, label in ((0, 0), (1, 2)):
        score = graph.pixel("images", 0, 300, 500)
        parts = [graph.constant([[100, 150, 300, 500]]), score, graph.constant([[label]])]
        rows[at] = graph.op("Concat", parts, axis=1)
    value = graph.op("Unsqueeze", [graph.rows(300, 6, rows), graph.constant([0], np.int64)])
    graph.output(value, "output0", [1, 300, 6])
    graph.save("yolo_ranked.onnx")
    area = (np.array([100, 150, 300, 500]) - [0, top, 0, top]) / scale
    return [person(area, small[300 - top, 500, 0])]


def rtdetr():
    graph = Graph(
        [("images", TensorProto.FLOAT, ["N", 3, 640, 640]), ("orig_target_sizes", TensorProto.INT64, ["N", 2])]
    )
    # Without regard to proportions: 2 times as wide, 8/3 times as high.
    small = bilinear(picture(), 640, 640) / 255
    score = graph.pixel("images", 0, 600, 500)
    size = graph.op("Cast", ["orig_target_sizes"], to=TensorProto.FLOAT)
    twice = graph.op("Concat", [size, size], axis=1)
    shares = graph.constant([[0.25, 0.5, 0.75, 1.0], [0, 0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]])
    boxes = graph.op("Unsqueeze", [graph.op("Mul", [shares, twice]), graph.constant([0], np.int64)])
    scores = graph.op("Concat", [score, score, graph.constant([[0.5]])], axis=1)
    graph.output(graph.constant([[0, 3, 0]], np.int64), "labels", [1, 3], TensorProto.INT64)
    graph.output(boxes, "boxes", [1, 3, 4])
    graph.output(scores, "scores", [1, 3])
    graph.save("rtdetr.onnx")
    return [person([0.25 * WIDTH, 0.5 * HEIGHT, 0.75 * WIDTH, HEIGHT], small[600, 500, 0])]


POINTS = np.array([[120.0, 90], [170, 96], [143, 120], [118, 146], [160, 150]])
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def aligned(side=112):
    """Umeyama's similarity by singular values, and a bilinear warp; black outside."""
    to = TEMPLATE * side / 112
    a, b = POINTS - POINTS.mean(0), to - to.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a / 5)
    d = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(d) @ vt
    scale = (s * d).sum() / a.var(0).sum()
    matrix = scale * rotation
    shift = to.mean(0) - matrix @ POINTS.mean(0)
    y, x = np.mgrid[0:side, 0:side]
    source = (np.stack([x, y], -1) - shift) @ np.linalg.inv(matrix).T
    image = np.pad(picture(), ((1, 1), (1, 1), (0, 0)))
    sx = np.clip(source[..., 0] + 1, 0, WIDTH + 0.999)
    sy = np.clip(source[..., 1] + 1, 0, HEIGHT + 0.999)
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    x1, y1 = np.minimum(x0 + 1, WIDTH + 1), np.minimum(y0 + 1, HEIGHT + 1)
    u, v = (sx - x0)[..., None], (sy - y0)[..., None]
    return (image[y0, x0] * (1 - u) + image[y0, x1] * u) * (1 - v) + (
        image[y1, x0] * (1 - u) + image[y1, x1] * u
    ) * v


def recogniser(file, width, mean, by, own=False):
    """Gives the first pixels of two rows in the middle of the face."""
    graph = Graph([("data", TensorProto.FLOAT, ["N", 3, 112, 112])])
    source = "data"
    if own:
        source = graph.op("Sub", [source, graph.constant(127.5)])
        source = graph.op("Mul", [source, graph.constant(1 / 127.5)])
    starts, ends = graph.constant([50, 0], np.int64), graph.constant([52, 112], np.int64)
    part = graph.op("Slice", [source, starts, ends, graph.constant([2, 3], np.int64)])
    flat = graph.op("Reshape", [part, graph.constant([1, 672], np.int64)])
    ends = graph.constant([width], np.int64)
    one = graph.constant([1], np.int64)
    graph.output(graph.op("Slice", [flat, graph.constant([0], np.int64), ends, one]), "fc1", ["N", width])
    graph.save(file)
    values = (np.round(aligned())[50:52] - mean) / by
    return values.transpose(2, 0, 1).reshape(-1)[:width].tolist()


def points68():
    """Constants but for three points of the brows, each of which is a pixel of the face's picture."""
    yaw, pitch, roll = np.radians([25.0, -12.0, 7.0])
    (cy, sy), (cp, sp), (cr, sr) = [(np.cos(a), np.sin(a)) for a in (yaw, pitch, roll)]
    turn = (
        np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    )
    shape = np.zeros((68, 3))
    shape[:17] = [[-70 * np.cos(a), 20 + 60 * np.sin(a), -60] for a in np.linspace(0, np.pi, 17)]
    around = np.array([[-12, 0, 1], [-5, -4, -1], [5, -4, -1], [12, 0, 1], [5, 4, 0], [-5, 4, 0]])
    shape[36:42] = [-31, -36, 0] + around
    shape[42:48] = [31, -36, 0] + around
    shape[30], shape[48], shape[54] = [0, 0, 27], [-25.5, 36, 2], [25.5, 36, 2]
    points = 0.9 * shape @ turn.T + [96, 96, 0]
    # The picture around a box of 90x100, and three pixels of it.
    scale, (cx, cy) = 192 / 150, (145, 120)
    image, graph = picture(), Graph([("data", TensorProto.FLOAT, ["N", 3, 192, 192])])
    rows = {}
    for at, (y, x) in zip(range(17, 20), [(30, 40), (96, 96), (150, 70)]):
        part = [graph.pixel("data", channel, y, x) for channel in range(3)]
        rows[1035 + at] = graph.op("Concat", part, axis=1)
        u, v = (x - 96) / scale + cx, (y - 96) / scale + cy
        value = (np.round([u, v, 255 - v]) - 127.5) / 128
        points[at] = (value + [1, 1, 0]) * 96
    for at in range(68):
        # This network's z grows away from the camera.
        normal = points[at] / 96 * [1, 1, -1] - [1, 1, 0]
        rows.setdefault(1035 + at, normal.tolist())
    numbers = graph.op("Reshape", [graph.rows(1103, 3, rows), graph.constant([1, 3309], np.int64)])
    graph.output(numbers, "fc1", [1, 3309])
    graph.save("points68.onnx")
    points[:17, 2] *= -1
    points[20:, 2] *= -1
    return {"points": points.tolist(), "pose": [25.0, -12.0, 7.0]}


MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])


def middle(shorter):
    """Bicubic to a shorter side, then the middle 224x224."""
    width, height = WIDTH * shorter // HEIGHT, shorter
    image = Image.fromarray(picture().astype(np.uint8)).resize((width, height), Image.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    return np.asarray(image, np.float64)[top : top + 224, left : left + 224]


def row_of_input(graph, source, at, width):
    """The first numbers of a row of pixels of all colours."""
    starts, ends = graph.constant([at], np.int64), graph.constant([at + 1], np.int64)
    part = graph.op("Slice", [source, starts, ends, graph.constant([2], np.int64)])
    flat = graph.op("Reshape", [part, graph.constant([1, 672], np.int64)])
    one = graph.constant([1], np.int64)
    return graph.op("Slice", [flat, graph.constant([0], np.int64), graph.constant([width], np.int64), one])


def clip():
    graph = Graph([("pixel_values", TensorProto.FLOAT, ["N", 3, 224, 224])])
    graph.output(row_of_input(graph, "pixel_values", 90, 512), "image_embeds", ["N", 512])
    graph.save("clip.onnx")
    # Without the projection.
    bare = Graph([("pixel_values", TensorProto.FLOAT, ["N", 3, 224, 224])])
    bare.output(row_of_input(bare, "pixel_values", 90, 512), "pooler_output", ["N", 512])
    bare.save("clip_bare.onnx")
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    values = (middle(224)[90:91] / 255 - mean) / deviation
    return values.transpose(2, 0, 1).reshape(-1)[:512].tolist()


def dinov2():
    graph = Graph([("pixel_values", TensorProto.FLOAT, ["N", 3, 224, 224])])
    whole = graph.rows(257, 384, {0: row_of_input(graph, "pixel_values", 90, 384)})
    value = graph.op("Unsqueeze", [whole, graph.constant([0], np.int64)])
    graph.output(value, "last_hidden_state", ["N", 257, 384])
    graph.save("dinov2.onnx")
    values = (middle(256)[90:91] / 255 - MEAN) / DEVIATION
    return values.transpose(2, 0, 1).reshape(-1)[:384].tolist()


def sam():
    """The mask is what lies between the first two points across; its score is a pixel."""
    graph = Graph([("image", TensorProto.FLOAT, [1, 3, 1024, 1024])])
    pixel = graph.op("Reshape", [graph.pixel("image", 1, 700, 900), graph.constant([1, 1, 1, 1], np.int64)])
    shape = graph.constant([1, 256, 64, 64], np.int64)
    graph.output(graph.op("Expand", [pixel, shape]), "embeddings", [1, 256, 64, 64])
    graph.save("sam_encoder.onnx")
    names = [
        ("image_embeddings", [1, 256, 64, 64]), ("point_coords", [1, "n", 2]), ("point_labels", [1, "n"]),
        ("mask_input", [1, 1, 256, 256]), ("has_mask_input", [1]), ("orig_im_size", [2]),
    ]
    graph = Graph([(name, TensorProto.FLOAT, shape) for name, shape in names])

    def number(source, *at):
        starts = graph.constant(at, np.int64)
        ends = graph.constant([v + 1 for v in at], np.int64)
        axes = graph.constant(range(len(at)), np.int64)
        part = graph.op("Slice", [source, starts, ends, axes])
        return graph.op("Reshape", [part, graph.constant([1], np.int64)])

    scale = graph.constant([1024 / WIDTH])
    size = graph.op("Cast", ["orig_im_size"], to=TensorProto.INT64)
    width = graph.op("Reshape", [number("orig_im_size", 1), graph.constant([], np.int64)])
    ways = graph.op("Range", [graph.constant(0.0), width, graph.constant(1.0)])
    ways = graph.op("Mul", [ways, scale])
    low = graph.op("Sub", [ways, number("point_coords", 0, 0, 0)])
    high = graph.op("Sub", [number("point_coords", 0, 1, 0), ways])
    row = graph.op("Min", [low, high])
    # One mask of nothing, and that one; the labels of the corners are 2 and 3.
    labels = graph.op("Sub", [number("point_labels", 0, 0), graph.constant([2.0])])
    row = graph.op("Sub", [row, graph.op("Mul", [labels, graph.constant([1000.0])])])
    shape = graph.op("Concat", [graph.constant([1, 1], np.int64), size], axis=0)
    zeros = graph.op("ConstantOfShape", [shape])
    masks = graph.op("Concat", [graph.op("Sub", [zeros, graph.constant([1.0])]), graph.op("Add", [zeros, row])], axis=1)
    graph.output(masks, "masks", [1, 2, "h", "w"])
    score = graph.op("Reshape", [number("image_embeddings", 0, 0, 0, 0), graph.constant([1, 1], np.int64)])
    graph.output(graph.op("Concat", [graph.constant([[0.1]]), score], axis=1), "iou_predictions", [1, 2])
    graph.save("sam_decoder.onnx")
    small = bilinear(picture(), 1024, HEIGHT * 1024 // WIDTH)
    return {"score": (small[700, 900, 1] - 116.28) / 57.12, "box": [100.5, 20, 180.5, 200], "columns": [101, 180]}


def grounding():
    graph = Graph([
        ("pixel_values", TensorProto.FLOAT, [1, 3, 800, 800]),
        ("pixel_mask", TensorProto.INT64, [1, 800, 800]),
        ("input_ids", TensorProto.INT64, [1, "n"]),
        ("token_type_ids", TensorProto.INT64, [1, "n"]),
        ("attention_mask", TensorProto.INT64, [1, "n"]),
    ])
    ids = graph.op("Cast", ["input_ids"], to=TensorProto.FLOAT)
    starts, ends = graph.constant([1], np.int64), graph.constant([2], np.int64)
    second = graph.op("Slice", [ids, starts, ends, graph.constant([1], np.int64)])
    second = graph.op("Mul", [second, graph.constant([[0.001]])])
    pixel = graph.pixel("pixel_values", 0, 400, 700)
    low = lambda count: graph.constant(np.full((1, count), -10.0))
    first = graph.op("Concat", [pixel, second, low(254)], axis=1)
    last = graph.op("Concat", [low(3), graph.constant([[5.0]]), low(252)], axis=1)
    rows = [graph.op("Expand", [graph.constant([[-10.0]]), graph.constant([n, 256], np.int64)]) for n in (5, 893)]
    logits = graph.op("Concat", [rows[0], first, rows[1], last], axis=0)
    one = graph.constant([0], np.int64)
    graph.output(graph.op("Unsqueeze", [logits, one]), "logits", [1, 900, 256])
    boxes = graph.rows(900, 4, {5: [0.5, 0.5, 0.25, 0.5]})
    graph.output(graph.op("Unsqueeze", [boxes, one]), "pred_boxes", [1, 900, 4])
    graph.save("grounding.onnx")
    small = bilinear(picture(), 800, 800)
    logit = (small[400, 700, 0] / 255 - MEAN[0]) / DEVIATION[0]
    shares = 1 / (1 + np.exp(-np.array([logit, 2.0])))
    box = [0.375 * WIDTH, 0.25 * HEIGHT, 0.625 * WIDTH, 0.75 * HEIGHT]
    return {"ids": [101, 2000, 102], "score": shares.max(), "box": box, "tokens": [0, 1]}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {
        "scrfd": scrfd(),
        "yunet": yunet(),
        "retinaface": retinaface(),
        "yolo": yolo(),
        "yolo_ranked": yolo_ranked(),
        "rtdetr": rtdetr(),
        "points": POINTS.tolist(),
        "arcface": recogniser("arcface.onnx", 512, 127.5, 127.5),
        "arcface_raw": recogniser("arcface_raw.onnx", 512, 127.5, 127.5, own=True),
        "sface": recogniser("sface.onnx", 128, 0, 1),
        "points68": points68(),
        "clip": clip(),
        "dinov2": dinov2(),
        "sam": sam(),
        "grounding": grounding(),
    }
    text = json.dumps(expected, indent=1)
    (OUT / "expected.json").write_text(text + "\n")


main()
