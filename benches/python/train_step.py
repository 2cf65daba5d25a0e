#!/usr/bin/env python3
"""Times the training step of the plain PyTorch twin: forward, loss, backward, AdamW, on one random batch.

    python benches/python/train_step.py --model b --batch 2 --threads 2

Prints a line of JSON for each step and one with the medians, in the fields of `trainer bench --json`.
"""

import argparse
import json
import os
import resource
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from twin import JOINTS, MODELS, Twin, official_loss


def peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="b")
    parser.add_argument("--layers", type=int, help="instead of the model's")
    parser.add_argument("--frames", type=int, help="instead of the model's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warm-up", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    config = MODELS[args.model]
    config = replace(config, n_frames=args.frames or config.n_frames, n_layers=args.layers or config.n_layers)
    model = Twin(config).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    shape = (args.batch, config.n_frames, JOINTS)
    host_input, host_label = torch.randn(*shape, config.dim_in), torch.randn(*shape, 3)
    autocast = torch.autocast(args.device, dtype=torch.bfloat16) if args.bf16 else nullcontext()

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    steps = []
    for step in range(args.warm_up + args.steps):
        at = [now()]
        x, label = host_input.to(device), host_label.to(device)
        optimiser.zero_grad()
        at.append(now())
        with autocast:
            predicted = model(x)
        at.append(now())
        loss = official_loss(predicted.float(), label)["total"]
        at.append(now())
        loss.backward()
        at.append(now())
        optimiser.step()
        at.append(now())
        parts = {name: 1e3 * (b - a) for name, a, b in zip(["data", "forward", "loss", "backward", "optimiser"], at, at[1:])}
        line = {"step": step, "warm_up": step < args.warm_up, "step_ms": 1e3 * (at[-1] - at[0]), "parts_ms": parts, "loss": loss.item()}
        print(json.dumps(line), flush=True)
        if not line["warm_up"]:
            steps.append(line)
    median = statistics.median(line["step_ms"] for line in steps)
    summary = {
        "engine": f"PyTorch {torch.__version__} eager",
        "model": args.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "frames": config.n_frames,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
        "device": args.device,
        "precision": "bf16" if args.bf16 else "f32",
        "steps": len(steps),
        "step_ms": median,
        "samples_per_s": 1e3 * args.batch / median,
        "parts_ms": {name: statistics.median(line["parts_ms"][name] for line in steps) for name in steps[0]["parts_ms"]},
        "peak_memory_mib": peak_memory_mib(device),
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
