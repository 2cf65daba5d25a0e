#!/usr/bin/env python3
"""The scan in ONNX Runtime, as our operator and as the function body of an exported file, interleaved: L = 243, D = 256, N = 16, f32.

    python benches/python/scan_body.py --model models/clip-xs.onnx --ops target/release/libposelift_ops.so

Beside `cargo bench -p scan`, which times the kernels alone and a naive loop.
"""

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

L, D, N = 243, 256, 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an exported file with a scan: its function body is taken")
    parser.add_argument("--ops", required=True, help="the built libposelift_ops.so")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    exported = onnx.load(args.model)
    body = exported.functions[0]
    attributes = next(node for node in exported.graph.node if node.op_type == body.name).attribute
    rng = np.random.default_rng(0)
    print(f"inputs {', '.join(body.input)}\n| S | threads | operator, ms | function body, ms | ratio of the medians |\n|---|---|---|---|---|")
    for s in (17, 136):
        shapes = {"u": (s, L, D), "delta": (s, L, D), "A": (D, N), "B": (s, L, N), "C": (s, L, N), "D": (D,), "z": (s, L, D), "delta_bias": (D,), "initial_state": (s, D, N)}
        feed = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in body.input}
        feed["A"] = -np.abs(feed["A"]) - 0.1
        node = helper.make_node(body.name, list(body.input), ["y"], domain=body.domain)
        node.attribute.extend(attributes)
        # every input of the schema has its place
        order = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"]
        last = max(order.index(name) for name in body.input)
        del node.input[:]
        node.input.extend(name if name in body.input else "" for name in order[: last + 1])
        graph = helper.make_graph([node], "scan", [helper.make_tensor_value_info(name, 1, shapes[name]) for name in body.input], [helper.make_tensor_value_info("y", 1, (s, L, D))])
        model = helper.make_model(graph, opset_imports=exported.opset_import, functions=[body], ir_version=exported.ir_version).SerializeToString()
        for threads in (1, 2):
            sessions = []
            for ops in (args.ops, None):
                options = ort.SessionOptions()
                options.intra_op_num_threads, options.log_severity_level = threads, 3
                if ops:
                    options.register_custom_ops_library(ops)
                sessions.append(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
            times = [[], []]
            for round_number in range(args.rounds + 1):
                for session, spent in zip(sessions, times):
                    start = time.perf_counter()
                    session.run(None, feed)
                    if round_number:
                        spent.append(1e3 * (time.perf_counter() - start))
            operator, function = map(statistics.median, times)
            print(f"| {s} | {threads} | {operator:.2f} (least {min(times[0]):.2f}) | {function:.1f} | {function / operator:.1f} |")


if __name__ == "__main__":
    main()
