"""Small detectors for the tests: graphs of each known kind that find coloured discs, wherever these are in their input.

    python demo/tests/data/make_detectors.py        # needs: pip install onnx numpy

Person p's keypoint k is a disc of the colour COLOURS[17 p + k] (R, G, B). Each graph measures how near every pixel is to each colour, smooths that, and
gives the places of the maxima in the format of its kind. So coordinates go the whole way: cutting out, bars, range of values, order of channels, decoding.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

HERE = pathlib.Path(__file__).parent
LEVELS = [25, 95, 165, 235]
COLOURS = [(r, g, b) for r in LEVELS for g in LEVELS for b in LEVELS if not (r == g == b)][:51]
WIDTH = 14.0  # how far a colour may be off (resizing mixes it with the background)
IMAGENET = (np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375]))


class Graph:
    """Nodes and constants; every method gives the name of what it adds."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def const(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, op, *inputs, outputs=1, **attributes):
        names = [f"n{self.count + i}" for i in range(outputs)]
        self.count += outputs
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def rename(self, old, new):
        for node in self.nodes:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]

    def write(self, name, inputs, outputs, opset=17):
        for i, (old, (new, *_)) in enumerate(outputs):
            if any(old == other for other, _ in outputs[:i]):
                raise ValueError(old)
            self.rename(old, new)
        info = [helper.make_tensor_value_info(*port) for port in inputs]
        out = [helper.make_tensor_value_info(*port) for _, port in outputs]
        graph = helper.make_graph(self.nodes, name, info, out, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="poselift tests")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        path = HERE / f"{name}.onnx"
        onnx.save(model, path)
        print(f"{path.name}: {path.stat().st_size} bytes")

    def similarity(self, picture, colours):
        """(B, 3, H, W) in bytes, order R, G, B -> (B, J, H, W), 1 where a pixel has the joint's colour."""
        colours = np.array(colours, dtype=np.float64) / 255
        picture = self.add("Mul", picture, self.const(1 / 255))
        square = self.add("ReduceSum", self.add("Mul", picture, picture), self.const([1], np.int64), keepdims=1)
        weights = self.const((-2 * colours)[:, :, None, None])
        bias = self.const((colours**2).sum(1))
        distance = self.add("Add", square, self.add("Conv", picture, weights, bias))
        return self.add("Exp", self.add("Mul", distance, self.const(-0.5 * (255 / WIDTH) ** 2)))

    def smooth(self, maps, joints, sigma):
        """A Gaussian over each map, by two small kernels. (B, J, H, W) -> the same."""
        reach = int(3 * sigma)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel /= kernel.sum()
        shape = self.add("Shape", maps)
        size = self.add("Slice", shape, self.const([2], np.int64), self.const([4], np.int64))
        planes = self.add("Reshape", maps, self.add("Concat", self.const([-1, 1], np.int64), size, axis=0))
        across = self.add("Conv", planes, self.const(kernel[None, None, None, :]), pads=[0, reach, 0, reach])
        down = self.add("Conv", across, self.const(kernel[None, None, :, None]), pads=[reach, 0, reach, 0])
        return self.add("Reshape", down, shape)

    def peaks(self, maps, sharp, joints):
        """x, y (index of the maximum) and confidence of each joint: three of (1, J)."""
        shape = self.add("Shape", maps)
        width = self.add("Cast", self.add("Slice", shape, self.const([3], np.int64), self.const([4], np.int64)), to=T.FLOAT)
        flat = self.add("Reshape", maps, self.const([1, joints, -1], np.int64))
        at = self.add("Cast", self.add("ArgMax", flat, axis=2, keepdims=0), to=T.FLOAT)
        y = self.add("Floor", self.add("Div", at, width))
        x = self.add("Sub", at, self.add("Mul", y, width))
        confidence = self.add("ReduceMax", sharp, axes=[2, 3], keepdims=0)
        return x, y, confidence


def bytes_of(graph, picture, mean=None, deviation=None):
    if mean is None:
        return picture
    shape = (1, 3, 1, 1)
    return graph.add("Add", graph.add("Mul", picture, graph.const(np.reshape(deviation, shape))), graph.const(np.reshape(mean, shape)))


def simcc(name, joints, batch):
    """RTMPose: histograms of two bins a pixel along x and y."""
    g = Graph()
    maps = g.smooth(g.similarity(bytes_of(g, "input", *IMAGENET), COLOURS[:joints]), joints, 2.0)
    gain = g.const(20.0)  # a disc of some pixels covers a part of the Gaussian

    def histogram(axis, length):
        along = g.add("Min", g.add("Mul", g.add("ReduceMax", maps, axes=[axis], keepdims=0), gain), g.const(0.9))
        # the maximum must stay one: what was cut off is told apart by the uncut value
        along = g.add("Add", along, g.add("Mul", g.add("ReduceMax", maps, axes=[axis], keepdims=0), g.const(0.05)))
        pair = g.add("Unsqueeze", along, g.const([3], np.int64))
        pair = g.add("Concat", pair, g.add("Mul", pair, g.const(0.5)), axis=3)
        return g.add("Reshape", pair, g.const([-1, joints, 2 * length], np.int64))

    x, y = histogram(2, 192), histogram(3, 256)
    g.write(name, [("input", T.FLOAT, [batch, 3, 256, 192])],
            [(x, ("simcc_x", T.FLOAT, [batch, joints, None])), (y, ("simcc_y", T.FLOAT, [batch, joints, None]))])


def heat_maps(name, udp):
    """HRNet, ViTPose: a map of a quarter of the size."""
    g = Graph()
    maps = g.smooth(g.similarity(bytes_of(g, "input", *IMAGENET), COLOURS[:17]), 17, 8.0)
    if udp:
        sizes = g.add("Concat", g.add("Slice", g.add("Shape", maps), g.const([0], np.int64), g.const([2], np.int64)), g.const([64, 48], np.int64), axis=0)
        small = g.add("Resize", maps, "", "", sizes, mode="linear", coordinate_transformation_mode="align_corners")
    else:
        small = g.add("Slice", maps, g.const([0, 0], np.int64), g.const([256, 192], np.int64), g.const([2, 3], np.int64), g.const([4, 4], np.int64))
    out = g.add("Min", g.add("Mul", small, g.const(8.0)), g.const(1e9))
    g.write(name, [("input", T.FLOAT, ["batch", 3, 256, 192])], [(out, ("heatmaps" if udp else "output", T.FLOAT, ["batch", 17, 64, 48]))])


def people_of(g, picture, people, sigma, half):
    """Keypoints (P, 17, 3: x, y, confidence) and boxes with scores (P, 5), in pixels counted from the edges."""
    joints = 17 * people
    sharp = g.similarity(picture, COLOURS[:joints])
    x, y, confidence = g.peaks(g.smooth(sharp, joints, sigma), sharp, joints)
    third = lambda t, add: g.add("Reshape", g.add("Add", t, g.const(add)), g.const([people, 17, 1], np.int64))
    xs, ys, cs = third(x, half), third(y, half), third(confidence, 0.0)
    keypoints = g.add("Concat", xs, ys, cs, axis=2)
    score = g.add("ReduceMean", cs, axes=[1], keepdims=0)
    edge = lambda op, t: g.add(op, t, axes=[1], keepdims=0)
    left, top, right, bottom = edge("ReduceMin", xs), edge("ReduceMin", ys), edge("ReduceMax", xs), edge("ReduceMax", ys)
    return keypoints, (left, top, right, bottom, score)


def yolo(name, size, people, half_precision=False, sigma=2.0):
    """v8, 11: (1, 56, anchors). Each person stands in three anchors: well, a little off, and hardly."""
    height, width = size
    anchors = sum((height // s) * (width // s) for s in (8, 16, 32))
    g = Graph()
    picture = g.add("Cast", "images", to=T.FLOAT) if half_precision else "images"
    picture = g.add("Mul", picture, g.const(255.0))
    keypoints, (left, top, right, bottom, score) = people_of(g, picture, people, sigma, 0.5)
    middle = lambda a, b: g.add("Mul", g.add("Add", a, b), g.const(0.5))
    box = [middle(left, right), middle(top, bottom), g.add("Sub", right, left), g.add("Sub", bottom, top)]
    flat = g.add("Reshape", keypoints, g.const([people, 51], np.int64))
    rows = g.add("Concat", *box, score, flat, axis=1)  # (P, 56)
    off = np.zeros(56), np.zeros(56), np.zeros(56)
    off[1][0] = 2.0
    fade = np.ones(56), np.ones(56), np.ones(56)
    fade[1][4], fade[2][4] = 0.8, 0.1
    copies = [g.add("Add", g.add("Mul", rows, g.const(fade[i][None])), g.const(off[i][None])) for i in range(3)]
    all_rows = g.add("Concat", *copies, axis=0)  # (3 P, 56)
    before = anchors // 3
    padded = g.add("Pad", all_rows, g.const([before, 0, anchors - before - 3 * people, 0], np.int64))
    out = g.add("Unsqueeze", g.add("Transpose", padded, perm=[1, 0]), g.const([0], np.int64))
    kind = T.FLOAT
    if half_precision:
        out, kind = g.add("Cast", out, to=T.FLOAT16), T.FLOAT16
    g.write(name, [("images", kind, [1, 3, height, width])], [(out, ("output0", kind, [1, 56, anchors]))])


def yolo_end_to_end(name, size, people):
    """26: (1, 300, 57), the surest first, the rest zeros."""
    g = Graph()
    picture = g.add("Mul", "images", g.const(255.0))
    keypoints, box = people_of(g, picture, people, 2.0, 0.5)
    flat = g.add("Reshape", keypoints, g.const([people, 51], np.int64))
    rows = g.add("Concat", *box, g.const(np.zeros((people, 1))), flat, axis=1)
    out = g.add("Unsqueeze", g.add("Pad", rows, g.const([0, 0, 300 - people, 0], np.int64)), g.const([0], np.int64))
    g.write(name, [("images", T.FLOAT, [1, 3, *size])], [(out, ("output0", T.FLOAT, [1, 300, 57]))])


def rtmo(name, size, people):
    """Boxes and keypoints apart; bytes in the order B, G, R."""
    g = Graph()
    blue, green, red = g.add("Split", "input", outputs=3, axis=1)
    keypoints, box = people_of(g, g.add("Concat", red, green, blue, axis=1), people, 2.0, 0.5)
    lead = g.const([0], np.int64)
    dets, out = g.add("Unsqueeze", g.add("Concat", *box, axis=1), lead), g.add("Unsqueeze", keypoints, lead)
    g.write(name, [("input", T.FLOAT, [1, 3, *size])],
            [(dets, ("dets", T.FLOAT, [1, None, 5])), (out, ("keypoints", T.FLOAT, [1, None, 17, 3]))])


def movenet(name, size, people):
    """(1, H, W, 3) whole numbers; one person (1, 1, 17, 3), or six (1, 6, 56)."""
    g = Graph()
    picture = g.add("Transpose", g.add("Cast", "input", to=T.FLOAT), perm=[0, 3, 1, 2])
    keypoints, (left, top, right, bottom, score) = people_of(g, picture, people, 1.5, 0.5)
    side = g.add("Cast", g.add("Shape", "input"), to=T.FLOAT)
    part = lambda i: g.add("Slice", side, g.const([i], np.int64), g.const([i + 1], np.int64))
    height, width = part(1), part(2)
    x, y, c = g.add("Split", keypoints, outputs=3, axis=2)
    shares = g.add("Concat", g.add("Div", y, height), g.add("Div", x, width), c, axis=2)
    if people == 1:
        out = g.add("Unsqueeze", shares, g.const([0], np.int64))
        port = ("output_0", T.FLOAT, [1, 1, 17, 3])
    else:
        flat = g.add("Reshape", shares, g.const([people, 51], np.int64))
        box = [g.add("Div", top, height), g.add("Div", left, width), g.add("Div", bottom, height), g.add("Div", right, width), score]
        rows = g.add("Concat", flat, *box, axis=1)
        out = g.add("Unsqueeze", g.add("Pad", rows, g.const([0, 0, 6 - people, 0], np.int64)), g.const([0], np.int64))
        port = ("output_0", T.FLOAT, [1, 6, 56])
    g.write(name, [("input", T.INT32, [1, *size, 3])], [(out, port)])


def odd(name, outputs, value=0.0, channels=3):
    """Files that are no detector: constants of these shapes, whatever the picture."""
    g = Graph()
    nothing = g.add("Mul", g.add("ReduceMean", "input", axes=[1, 2, 3], keepdims=0), g.const(0.0))
    made = []
    for i, shape in enumerate(outputs):
        full = g.add("Expand", g.add("Reshape", nothing, g.const([1] * len(shape), np.int64)), g.const(shape, np.int64))
        made.append((g.add("Add", full, g.const(value)), (f"out{i}", T.FLOAT, shape)))
    g.write(name, [("input", T.FLOAT, [1, channels, 64, 64])], made)


simcc("detect-simcc17", 17, "batch")
simcc("detect-simcc26", 26, 1)
heat_maps("detect-heatmaps", udp=False)
heat_maps("detect-vitpose", udp=True)
yolo("detect-yolo", (320, 320), 2)
yolo("detect-yolo-half", (192, 320), 1, half_precision=True)
yolo("detect-live", (128, 160), 2, sigma=1.0)  # quick, for live tests
yolo_end_to_end("detect-yolo26", (320, 320), 2)
rtmo("detect-rtmo", (320, 320), 2)
movenet("detect-movenet", (192, 192), 1)
movenet("detect-movenet-multi", ["height", "width"], 2)
odd("detect-classifier", [[1, 1000]])
odd("detect-nan", [[1, 56, 84]], value=float("nan"))
odd("detect-five-joints", [[1, 50, 21]])


def constant(name):
    """A top-down network that sees somebody upright in the middle of every crop: what it gives depends on where it is made to look."""
    places = [(0, -74), (8, -83), (-8, -83), (18, -78), (-18, -78), (19, -60), (-19, -60), (29, -31), (-29, -31), (33, -4), (-33, -4), (12, 0), (-12, 0),
              (14, 44), (-14, 44), (15, 85), (-15, 85)]  # pixels of the crop around its middle
    g = Graph()
    nothing = g.add("Mul", g.add("ReduceMean", "input", axes=[1, 2, 3], keepdims=1), g.const(0.0))
    outputs = []
    for axis, length in ((0, 192), (1, 256)):
        at = np.array([[2 * (place[axis] + length // 2)] for place in places])
        index = g.const(at[None], np.int64)  # (1, 17, 1): one-hot in the graph, so that the file stays small
        hot = g.add("OneHot", index, g.const([2 * length], np.int64), g.const([0.0, 0.9]), axis=2)
        hot = g.add("Reshape", hot, g.const([1, 17, 2 * length], np.int64))
        flat = g.add("Reshape", nothing, g.const([-1, 1, 1], np.int64))
        outputs.append(g.add("Add", hot, flat))
    g.write(name, [("input", T.FLOAT, ["batch", 3, 256, 192])],
            [(outputs[0], ("simcc_x", T.FLOAT, ["batch", 17, 384])), (outputs[1], ("simcc_y", T.FLOAT, ["batch", 17, 512]))])


constant("detect-constant")
