#!/usr/bin/env python3
"""Checks exported lifters with plain Python: onnx and onnxruntime, no library of ours.

    pip install onnx onnxruntime numpy
    python tests/python/check_onnx.py MODEL.onnx REFERENCE_FOLDER [MODEL.onnx REFERENCE_FOLDER ...]

The file must pass onnx.checker (shapes inferred), carry its metadata, and give the reference's output_f64.npy to 1e-4; where a
temporal top-k graph has near ties (listed in the folder's meta.json), 97 % of it.
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime


def check(model_path: str, folder: pathlib.Path) -> bool:
    model = onnx.load(model_path)
    onnx.checker.check_model(model, full_check=True)
    properties = {p.key: p.value for p in model.metadata_props}
    metadata = json.loads(properties["poselift"])
    assert model.ir_version <= 10, model.ir_version

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    x = np.load(folder / "input.npy")
    expected = np.load(folder / "output_f64.npy")
    assert x.shape[1:] == (metadata["frames"], 17, metadata["dim_in"]), (x.shape, metadata)
    assert isinstance(port.shape[0], str), f"the batch is fixed: {port.shape}"

    difference = np.abs(session.run(None, {port.name: x})[0] - expected)
    alone = session.run(None, {port.name: x[:1]})[0]
    assert alone.shape == expected[:1].shape, alone.shape
    fraction = float((difference <= 1e-4).mean())
    fragile = json.loads((folder / "meta.json").read_text()).get("fragile_rows_lt_1e5")
    passed = difference.max() <= 1e-4 or (bool(fragile) and fraction >= 0.97)
    standard = "standard ONNX throughout" if not model.functions else f"{len(model.functions)} function"
    print(
        f"{'ok  ' if passed else 'FAIL'} {folder.name}: {metadata['architecture']}, opset {model.opset_import[0].version}, {standard}; "
        f"largest difference {difference.max():.2e}, {100 * fraction:.2f} % within 1e-4"
    )
    return passed


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or len(arguments) % 2:
        print(__doc__, file=sys.stderr)
        return 2
    pairs = zip(arguments[::2], arguments[1::2])
    results = [check(model, pathlib.Path(folder)) for model, folder in pairs]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
