#!/usr/bin/env python3
"""What TensorBoard reads of a run's event files: check_tensorboard.py RUN_FOLDER"""

import json
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import types_pb2

run = Path(sys.argv[1])
events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
tags = events.Tags()["scalars"]
for tag in ["train/loss", "train/learning_rate", "epoch/loss", "epoch/clips_per_s"]:
    assert tag in tags, f"{tag} is not among {tags}"
validation = [tag for tag in tags if tag.startswith("validation/")]
assert validation, f"no validation among {tags}"


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


points = events.Scalars("epoch/loss")
assert [p.step for p in points] == [e["step"] for e in epochs], (points, epochs)
assert all(close(p.value, e["loss"]) for p, e in zip(points, epochs))
for tag in validation:
    name = tag.removeprefix("validation/")
    assert all(close(p.value, e["validation"][name]) for p, e in zip(events.Scalars(tag), epochs)), tag
steps = [p.step for p in events.Scalars("train/loss")]
assert steps == sorted(set(steps)) and steps[-1] == epochs[-1]["step"], steps
[text] = events.Tensors("recipe/text_summary") if "recipe/text_summary" in events.Tags()["tensors"] else events.Tensors("recipe")
assert text.tensor_proto.dtype == types_pb2.DT_STRING and b"[train]" in text.tensor_proto.string_val[0]
print(f"TensorBoard reads {len(tags)} curves of {run.name}, {len(steps)} points of the loss, {len(epochs)} epochs")
