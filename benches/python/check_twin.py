#!/usr/bin/env python3
"""Proves the twin on the golden vectors: outputs, losses, the gradient of every parameter, the weights after optimiser steps.

    python benches/python/check_twin.py [--full ../shared/reference/full]

Tolerances are those of tests/golden/README.md. Exit status 1 when anything is outside of them.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from twin import Config, MambaGcnConfig, Twin, mirrored, mpjpe, official_loss

ROOT = Path(__file__).resolve().parents[2]
failed = False


class EasyDict(dict):
    """Stands in for easydict's class, which some checkpoints keep their configuration in."""

    def __setstate__(self, state):
        pass


sys.modules["easydict"] = types.ModuleType("easydict")
sys.modules["easydict"].EasyDict = EasyDict
EasyDict.__module__ = "easydict"


def report(what: str, value: float, limit: float, least: bool = False):
    """One line; `least`: the value must not be below the limit, else not above it."""
    global failed
    good = value >= limit if least else value <= limit
    failed |= not good
    print(f"{'ok  ' if good else 'FAIL'} {what}: {value:.3g} ({'at least' if least else 'at most'} {limit:g})")


def npy(path: Path, dtype=torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.load(path)).to(dtype)


def config_of(args: dict, mamba: str | None, dropout: float = 0.1) -> Config:
    """The reference's constructor arguments; those of the MambaGCN code default to 4 heads and 4 neighbours."""
    known = {k: v for k, v in args.items() if k in Config.__dataclass_fields__ and k != "mamba_gcn"}
    config = Config(**({"num_heads": 4, "neighbour_num": 4} | known if "use_mamba_gcn" in args else known))
    if args.get("use_mamba_gcn"):
        config.mamba_gcn = MambaGcnConfig(mamba=mamba, use_attention=args["mamba_gcn_use_attention"], dropout=dropout)
    return config


def state_of(path: Path) -> dict:
    with torch.serialization.safe_globals([EasyDict]):
        try:
            file = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # numpy's scalars in a configuration: these files are the project's own
            file = torch.load(path, map_location="cpu", weights_only=False)
    state = next((file[key] for key in ("model", "model_state_dict") if key in file), file)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load(config: Config, path: Path, dtype=torch.float32) -> Twin:
    model = Twin(config).to(dtype)
    model.load_state_dict({name: t.to(dtype) if t.is_floating_point() else t for name, t in state_of(path).items()})
    return model


def check_outputs(folder: Path, mamba: str | None, tolerance: float | None):
    """`tolerance` None: 97 % of the outputs within 1e-4, since a near tie in the top-k graph may fall otherwise."""
    meta = json.loads((folder / "meta.json").read_text())
    [checkpoint] = folder.glob("best*.pth*")
    model = load(config_of(meta["args"], mamba), checkpoint).eval()
    x, expected = npy(folder / "input.npy"), npy(folder / "output_f64.npy", torch.float64)
    with torch.no_grad():
        found = model(x)
        averaged = (found + mirrored(model(mirrored(x)))) / 2
    difference = (found.double() - expected).abs()
    if tolerance is None:
        report(f"{folder.name}: share of outputs within 1e-4", (difference <= 1e-4).double().mean().item(), 0.97, least=True)
    else:
        report(f"{folder.name}: outputs", difference.max().item(), tolerance)
    flipped = (averaged - npy(folder / "output_flip_tta.npy")).abs()
    report(f"{folder.name}: flip averaging, share within 1e-4", (flipped <= 1e-4).double().mean().item(), 0.97, least=True)


def check_steps(folder: Path, mamba: str | None, official: bool, dtype, gradient_limit: float, weight_limit: float):
    """Three optimiser steps on one batch."""
    meta = json.loads((folder / "meta.json").read_text())
    model = load(config_of(meta["args"], mamba, dropout=0.0), folder / "init_state_dict.pth", dtype).train()
    x, target = npy(folder / "input.npy", dtype), npy(folder / "target.npy", dtype)
    if official:
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
        target = target - target[:, :, :1]
    else:
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-5)
    name = f"{folder.name} ({'f64' if dtype == torch.float64 else 'f32'})"
    for step in range(3):
        optimiser.zero_grad()
        predicted = model(x)
        loss = official_loss(predicted, target)["total"] if official else mpjpe(predicted, target)
        loss.backward()
        expected = meta["f64"][step]["total"]
        report(f"{name}: loss of step {step + 1}, relative", abs(loss.item() - expected) / expected, 1e-5)
        if step == 0:
            check_gradients(name, model, state_of(folder / "grad_step1.pth"), meta["no_grad_params"], gradient_limit)
        optimiser.step()
        if step + 1 in (1, 3):
            state, wanted = model.state_dict(), state_of(folder / f"state_dict_after_{step + 1}.pth")
            worst = max((state[key].double() - value.double()).abs().max().item() for key, value in wanted.items())
            report(f"{name}: weights after step {step + 1}", worst, weight_limit * (1 if step == 0 else 2.5))


def check_gradients(name: str, model: Twin, expected: dict, without: list[str], limit: float):
    # What is zero but for rounding (a bias before a normalisation) is compared with the scale of everything else; in f32 so is what nearly
    # cancels over a whole clip (the weight generator's gradient), where the order of a sum is worth 1e-5.
    double = next(model.parameters()).dtype == torch.float64
    floor = (1e-4 if double else 1e-3) * max(t.abs().max().item() for t in expected.values())
    worst = 0.0
    for key, parameter in model.named_parameters():
        if key in without:
            if parameter.grad is not None:
                report(f"{name}: {key} has a gradient", 1, 0)
            continue
        wanted = expected[key].double()
        worst = max(worst, (parameter.grad.double() - wanted).abs().max().item() / max(wanted.abs().max().item(), floor))
    report(f"{name}: gradients, relative to each tensor's largest", worst, limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, default=ROOT.parent / "shared/reference/full", help="folder with the full-size models; skipped where absent")
    args = parser.parse_args()
    torch.set_num_threads(2)
    tiny, train = ROOT / "tests/golden/tiny", ROOT / "tests/golden/train"
    for folder, mamba, tolerance in [
        ("official", None, 1e-5),
        ("official_smooth_input", None, None),
        ("original_baseline", None, 1e-5),
        ("original_mamba_gcn_fixed", "selective", 2e-5),
        ("original_full_fixedmamba", "selective", 2e-5),
        ("original_mamba_gcn_legacy", "global-mean", 1e-4),
        ("original_full_legacy", "global-mean", 1e-4),
    ]:
        check_outputs(tiny / folder, mamba, tolerance)
    if args.full.is_dir():
        check_outputs(args.full / "official_xs_27", None, 1e-5)
        check_outputs(args.full / "official_xs_27_smooth_input", None, None)
        check_outputs(args.full / "mamba_gcn_selective_243", "selective", None)  # its input has near ties
    else:
        print(f"skipped: {args.full} is absent, and with it the full-size models")
    for dtype in (torch.float64, torch.float32):
        check_steps(train / "official_adamw", None, True, dtype, 5e-6, 2e-6)
        check_steps(train / "fixed_adamw_official_loss", "selective", True, dtype, 5e-6, 2e-6)
        # the global mean multiplies by A^T A, about 1.5e3
        loose = dtype == torch.float32
        check_steps(train / "original_legacy_adam", "global-mean", False, dtype, 2e-5 if loose else 5e-6, 5e-6 if loose else 2e-6)
    print("the twin differs from the golden vectors" if failed else "the twin computes what the golden vectors say")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
