"""Small onnx files of the inputs and outputs of YuNet, SFace, SCRFD and ArcFace.

The detectors see a face in every red square of 32 pixels that lies on a grid of 32; its five points are `POINTS`, in
strides from the upper left corner of the square. The recognisers' vectors are random functions of the crop's colours.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
POINTS = np.array([[0.3, 0.35], [0.72, 0.3], [0.52, 0.55], [0.36, 0.8], [0.7, 0.76]], np.float32)
SHARPNESS = 40.0


class Graph:
    """Nodes and constants of an onnx file; every method gives the name of its result."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def __call__(self, kind, *inputs, output=None, **attributes):
        self.count += 1
        name = output or f"t{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values, kind=np.float32):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def save(self, path: Path, input_shape, outputs):
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)
        named = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
        graph = helper.make_graph(self.nodes, "stand_in", [given], named, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def _redness(graph, stride, weights, bias):
    """A score in (0, 1) of every cell of a stride, (1 1 h w): near 1 where the cell is red all over."""
    kernel = np.broadcast_to(np.array(weights, np.float32)[None, :, None, None], (1, 3, stride, stride)) / stride**2
    mean = graph("Conv", "input", graph.constant(kernel), strides=[stride, stride], kernel_shape=[stride, stride])
    if stride != 32:
        mean = graph("Mul", mean, graph.constant([0.0]))  # faces of this size are not seen
    moved = graph("Sub", mean, graph.constant([bias]))
    return graph("Sigmoid", graph("Mul", moved, graph.constant([SHARPNESS])))


def _everywhere(graph, score, values, anchors):
    """The same values in every cell and anchor, (1 cells*anchors k)."""
    zeros = graph("Mul", score, graph.constant([0.0]))
    planes = graph("Add", zeros, graph.constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1)))
    many = graph("Concat", *[planes] * anchors, axis=1)
    return _rows(graph, many, len(np.ravel(values)))


def _rows(graph, planes, width):
    last = graph("Transpose", planes, perm=[0, 2, 3, 1])
    return graph("Reshape", last, graph.constant([1, -1, width], np.int64))


def write_scrfd(path: Path) -> None:
    """Input (RGB - 127.5) / 128; nine outputs, two anchors per cell, of which the second is never sure."""
    graph, outputs = Graph(), {"score": [], "bbox": [], "kps": []}
    for stride in STRIDES:
        score = _redness(graph, stride, (1.0, -1.0, -1.0), 2.6)  # red: 1 + 1 + 1
        both = graph("Concat", score, graph("Mul", score, graph.constant([0.3])), axis=1)
        outputs["score"].append(_rows(graph, both, 1))
        outputs["bbox"].append(_everywhere(graph, score, [0.0, 0.0, 1.0, 1.0], 2))
        outputs["kps"].append(_everywhere(graph, score, POINTS.ravel(), 2))
    order = [(name, width) for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)) for name in outputs[kind]]
    graph.save(path, [1, 3, "h", "w"], [(name, [1, None, width]) for name, width in order])


def write_yunet(path: Path) -> None:
    """Input BGR in [0, 255]; twelve outputs by name, one anchor per cell, boxes by middle and log of the sides."""
    graph, outputs = Graph(), []
    for stride in STRIDES:
        score = _redness(graph, stride, (-1 / 255, -1 / 255, 1 / 255), 0.9)
        rows = _rows(graph, score, 1)
        outputs += [(graph("Identity", rows, output=f"{kind}_{stride}"), 1) for kind in ("cls", "obj")]
        outputs.append((_named(graph, score, [0.5, 0.5, 0.0, 0.0], f"bbox_{stride}"), 4))
        outputs.append((_named(graph, score, POINTS.ravel(), f"kps_{stride}"), 10))
    graph.save(path, [1, 3, 640, 640], [(name, [1, None, width]) for name, width in outputs])


def _named(graph, score, values, name):
    return graph("Identity", _everywhere(graph, score, values, 1), output=name)


def write_recogniser(path: Path, width: int, seed: int = 0) -> None:
    """A crop of 112 pixels to a vector."""
    graph, random = Graph(), np.random.default_rng(seed)
    means = graph("AveragePool", "input", kernel_shape=[16, 16], strides=[16, 16])
    flat = graph("Flatten", means)
    out = graph("MatMul", flat, graph.constant(random.normal(size=(3 * 7 * 7, width)) / 100))
    graph.save(path, [1, 3, 112, 112], [(out, [1, width])])


def picture(*faces, height=96, width=160, seed=0):
    """Dark grey, with a red square at every (row, column) of the grid of 32, and something blue under its nose."""
    image = np.full((height, width, 3), 40, np.uint8)
    for row, column in faces:
        image[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = (255, 0, 0)
    return image
