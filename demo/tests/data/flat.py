"""Writes flat.onnx: the smallest ONNX file that the runtime takes for a lifter, for tests of what surrounds the model.
It returns x and y of its input, root-relative, and depth 0. Needs the Python package onnx."""
import json, numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper

shape = ["batch", "frames", 17, 3]
pose2, pose25 = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("pose2", "pose25"))
graph = helper.make_graph(
    [helper.make_node("Mul", ["pose2", "without_confidence"], ["xy0"]),
     helper.make_node("Gather", ["xy0", "root"], ["root_xy0"], axis=2),
     helper.make_node("Sub", ["xy0", "root_xy0"], ["pose25"])],
    "flat", [pose2], [pose25],
    [numpy_helper.from_array(np.float32([1, 1, 0]), "without_confidence"), numpy_helper.from_array(np.int64([0]), "root")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="poselift")
metadata = {"format": 1, "name": "flat", "architecture": "flat", "config_toml": "", "skeleton": "h36m17", "frames": 81,
            "frames_dynamic": True, "dim_in": 3, "normalisation": "person_box", "fps": 50.0, "output": "2.5d", "parameters": 0,
            "trained_on": "nothing", "licence": "MIT OR Apache-2.0", "has_top_k_graph": False}
helper.set_model_props(model, {"poselift": json.dumps(metadata)})
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "flat.onnx")
