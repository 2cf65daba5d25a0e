#!/usr/bin/env python3
"""One window of 243 frames through the 16.25 M model, by every road there is, interleaved in one run.

    python benches/python/inference.py --export target/release/export --runtime target/release/runtime --ops target/release/libposelift_ops.so

The twin's own weights go through each: PyTorch eager; `torch.onnx` with the scan as a Loop, the usual way; our export with the scan as operator,
with its function body, and in int8; our export in `runtime`. The floor is the time of our graph's matrix products, measured in two ways:
alone, back to back in a session that has nothing else (least memory traffic that products can have there), and inside our own session, by its profile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import twin
from onnx import helper
from twin import JOINTS, MODELS, Twin


@torch.jit.script
def looped_scan(u: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The twin's scan as a loop that torch.onnx writes down as a Loop, not as 243 copies of its body."""
    state = torch.zeros(u.size(0), u.size(2), a.size(1), dtype=u.dtype)
    y = torch.zeros(u.size(0), 0, u.size(2), dtype=u.dtype)
    for t in range(u.size(1)):
        step = delta[:, t].unsqueeze(-1)
        state = torch.exp(step * a) * state + step * u[:, t].unsqueeze(-1) * b[:, t].unsqueeze(1)
        y = torch.cat([y, (state * c[:, t].unsqueeze(1)).sum(-1).unsqueeze(1)], 1)
    return y + u * d


def scaled_rows_and_columns(adjacency: torch.Tensor) -> torch.Tensor:
    """The twin's normalisation without its diagonal matrices, which torch.onnx cannot write."""
    scale = adjacency.sum(-1) ** -0.5
    return scale.unsqueeze(-1) * adjacency * scale.unsqueeze(-2)


def session(path, threads, ops=None, profile=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if ops:
        options.register_custom_ops_library(str(ops))
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


PRODUCTS = "MatMul", "FusedMatMul", "Gemm", "FusedGemm"


def product_events(profile):
    """For each run in a profile of ONNX Runtime its matrix products."""
    events = json.loads(Path(profile).read_text())
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["args"].get("op_name") in PRODUCTS]
    return [[event for event in kernels if start <= event["ts"] < end] for start, end in runs]


def shapes_of(events):
    """Shapes of the factors of products, with how often each."""
    found = Counter()
    for event in events:
        shapes = [tuple(next(iter(shape.values()))) for shape in event["args"]["input_type_shape"]]
        if len(shapes) == 1 or len(shapes[1]) == 1:  # weights that were packed beforehand are not told; a bias may be
            shapes[1:] = [(shapes[0][-1], tuple(next(iter(event["args"]["output_type_shape"][0].values())))[-1])]
        a, b = shapes[:2]
        if a[-1] != b[-2]:  # a product with a transposed factor
            a, b = (a, b[:-2] + (b[-1], b[-2])) if a[-1] == b[-1] else (a[:-2] + (a[-1], a[-2]), b)
        found[a, b] += 1
    return found


class Floor:
    """The products alone: one session, values that are read again and again, results that are dropped (but for an element, so that they are made)."""

    def __init__(self, shapes, threads):
        self.macs = sum(count * int(np.prod(a)) * b[-1] for (a, b), count in shapes.items())
        numbers = lambda shape: (np.random.randn(*shape) * 0.1).astype(np.float32)
        inputs, constants, nodes, ends = {}, {}, [], []

        def value(shape):
            name = "x" + "_".join(map(str, shape))
            inputs[name] = shape
            return name

        for (a, b), count in shapes.items():
            for axes in {len(a), max(len(a), len(b))}:
                constants[f"zeros{axes}"], constants[f"ones{axes}"] = np.zeros(axes, np.int64), np.ones(axes, np.int64)
            for _ in range(count):
                n, axes = len(ends), max(len(a), len(b))
                right = f"w{n}" if len(b) == 2 else value(b)
                if len(b) == 2:
                    constants[right] = numbers(b)
                nodes += [
                    helper.make_node("MatMul", [value(a), right], [f"y{n}"]),
                    helper.make_node("Slice", [f"y{n}", f"zeros{axes}", f"ones{axes}"], [f"s{n}"]),
                    helper.make_node("Reshape", [f"s{n}", "one"], [f"e{n}"]),
                ]
                ends.append(f"e{n}")
        constants["one"] = np.ones(1, np.int64)
        nodes.append(helper.make_node("Concat", ends, ["ends"], axis=0))
        described = [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()]
        constants = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
        graph = helper.make_graph(nodes, "products", described, [helper.make_tensor_value_info("ends", 1, None)], constants)
        self.session = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString(), threads)
        self.feed = {name: numbers(shape) for name, shape in inputs.items()}

    def __call__(self):
        self.session.run(None, self.feed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True, type=Path, help="the built `export`")
    parser.add_argument("--runtime", required=True, type=Path, help="the built `runtime`")
    parser.add_argument("--ops", required=True, type=Path, help="the built libposelift_ops.so")
    parser.add_argument("--calibrate", nargs="*", default=[], type=Path, help="keypoint files for int8, which is left out without them")
    parser.add_argument("--model", choices=MODELS, default="mamba-gcn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = MODELS[args.model]
    model = Twin(config).eval()
    x = torch.randn(1, config.n_frames, JOINTS, config.dim_in) * 0.3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save({"model": model.state_dict()}, folder / "twin.pth")
        settings = ["--mamba", "selective"] + [f"--set=num_heads={config.num_heads}", f"--set=neighbour_num={config.neighbour_num}"]

        def export(out, *more):
            subprocess.run([args.export, "onnx", folder / "twin.pth", *settings, "--threads", str(args.threads), "--out", folder / out, *more], check=True, stdout=subprocess.DEVNULL)

        export("ours.onnx")
        contestants = {}
        feed = lambda s: lambda: s.run(None, {s.get_inputs()[0].name: x.numpy()})[0]
        first = session(folder / "ours.onnx", args.threads, args.ops, folder / "first")
        feed(first)()
        contestants["floor: the products alone"] = floor = Floor(shapes_of(product_events(first.end_profiling())[0]), args.threads)
        profiled = session(folder / "ours.onnx", args.threads, args.ops, folder / "profile")
        contestants["ours, profiled"] = feed(profiled)
        contestants["ours"] = feed(session(folder / "ours.onnx", args.threads, args.ops))
        if args.calibrate:
            export("int8.onnx", "--precision", "int8", "--calibrate", *args.calibrate)
            contestants["ours, int8"] = feed(session(folder / "int8.onnx", args.threads, args.ops))
        contestants["ours, function body"] = feed(session(folder / "ours.onnx", args.threads))
        with torch.no_grad():
            contestants["PyTorch eager"] = lambda: model(x).numpy()
            expected = model(x).numpy()
            written = twin.selective_scan, twin.normalised
            twin.selective_scan, twin.normalised = looped_scan, scaled_rows_and_columns
            torch.onnx.export(model, (x,), folder / "loop.onnx", dynamo=False, opset_version=17)
            twin.selective_scan, twin.normalised = written
            loops = sum(node.op_type == "Loop" for node in onnx.load(folder / "loop.onnx").graph.node)
            contestants[f"torch.onnx, {loops} Loops"] = feed(session(folder / "loop.onnx", args.threads))
            for name, run in contestants.items():
                result = run()
                if result is not None:
                    close = np.mean(np.abs(result - expected) < 1e-3)
                    print(f"{name}: {100 * close:.1f} % of the outputs within 1e-3 of eager", file=sys.stderr)
            times = {name: [] for name in contestants} | {"ours in `runtime`": []}
            for _ in range(args.rounds):
                for name, run in contestants.items():
                    start = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - start)
                bench = [args.runtime, "bench", folder / "ours.onnx", "--threads", str(args.threads), "--seconds", "4", "--warm-up", "2", "--json"]
                times["ours in `runtime`"].append(1e-3 * json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)["p50_ms"])
        runs = product_events(profiled.end_profiling())[-args.rounds :]
        times["floor: the products inside ours, by its profile"] = [1e-6 * sum(event["dur"] for event in run) for run in runs]
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{floor.macs / 1e9:.1f} GMAC in products, {2e-9 * floor.macs / median['floor: the products alone']:.0f} GFLOP/s; {args.threads} threads, {args.rounds} rounds, seconds for one window")
    # A machine that others use too slows whole rounds down: ratios are taken within a round.
    ratio = lambda values: statistics.median(value / ours for value, ours in zip(values, times["ours"]))
    print("| | median | least | times ours, median of the rounds' ratios |\n|---|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {median[name]:.3f} | {min(values):.3f} | {ratio(values):.2f} |")


if __name__ == "__main__":
    main()
