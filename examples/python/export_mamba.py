#!/usr/bin/env python3
"""A Mamba layer of your own from PyTorch to ONNX, with the selective scan as one operator, and the proof that both compute the same.

    pip install torch onnx onnxruntime numpy
    python export_mamba.py mamba.onnx --ops libposelift_ops.so

`torch.onnx` writes the scan of a PyTorch model as a Loop, or as thousands of copies of its body. Here it becomes one node, `SelectiveScan` of
the domain `poselift.ssm`, which libposelift_ops.so runs in any program that uses ONNX Runtime. What has to be written is `Scan` below: the
formula for PyTorch, and one line for the exporter. Prints the largest difference between PyTorch and ONNX Runtime; exits with 1 above 1e-4.
"""
import argparse
import sys
import time

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn


class Scan(torch.autograd.Function):
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = (C_t . h_t + D u_t) silu(z_t), with delta = softplus(delta + bias).

    u, delta, z (S, L, D); A (D, N); B, C (S, L, N); D, bias (D) -> y (S, L, D). S sequences, L frames, D channels, N states.
    """

    @staticmethod
    def forward(ctx, u, delta, a, b, c, d, z, bias):
        delta = F.softplus(delta + bias)
        state, rows = u.new_zeros(u.shape[0], u.shape[2], a.shape[1]), []
        for t in range(u.shape[1]):
            step = delta[:, t, :, None]
            state = torch.exp(step * a) * state + step * u[:, t, :, None] * b[:, t, None]
            rows.append((state * c[:, t, None]).sum(-1))
        return (torch.stack(rows, 1) + u * d) * F.silu(z)

    @staticmethod
    def symbolic(g, u, delta, a, b, c, d, z, bias):
        return g.op("poselift.ssm::SelectiveScan", u, delta, a, b, c, d, z, bias, delta_softplus_i=1).setType(u.type())


class Mamba(nn.Module):
    """A Mamba mixer: (S, L, channels) -> (S, L, channels)."""

    def __init__(self, channels=64, states=16, kernel=4, rank=4):
        super().__init__()
        inner = 2 * channels
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.a_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.d = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.sizes = [rank, states, states]

    def forward(self, x):
        length = x.shape[1]
        u, z = self.in_proj(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :length].transpose(1, 2))
        delta, b, c = self.x_proj(u).split(self.sizes, -1)
        delta = delta @ self.dt_proj.weight.T  # its bias belongs to the operator
        return self.out_proj(Scan.apply(u, delta, -self.a_log.exp(), b, c, self.d, z, self.dt_proj.bias))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the ONNX file to write")
    parser.add_argument("--ops", required=True, help="libposelift_ops.so")
    args = parser.parse_args()
    torch.manual_seed(0)
    model, x = Mamba().eval(), torch.randn(17, 243, 64)
    axes = {"x": {0: "sequences", 1: "frames"}, "y": {0: "sequences", 1: "frames"}}
    torch.onnx.export(model, (x,), args.out, input_names=["x"], output_names=["y"], dynamic_axes=axes, opset_version=17, custom_opsets={"poselift.ssm": 1}, dynamo=False)

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(args.ops)
    session = onnxruntime.InferenceSession(args.out, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for shape in [(17, 243, 64), (1, 1, 64), (3, 1000, 64)]:  # other sizes than it was exported with
        x = torch.randn(*shape)
        start = time.perf_counter()
        with torch.no_grad():
            expected = model(x).numpy()
        middle = time.perf_counter()
        found = session.run(None, {"x": x.numpy()})[0]
        end = time.perf_counter()
        difference = float(np.abs(found - expected).max())
        worst = max(worst, difference)
        print(f"{shape}: PyTorch {1e3 * (middle - start):.1f} ms, ONNX Runtime {1e3 * (end - middle):.1f} ms, largest difference {difference:.1e}")
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
