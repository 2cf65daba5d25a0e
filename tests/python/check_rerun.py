#!/usr/bin/env python3
"""Whether a recording of demo-rerun holds the poses of CLIP.3d.json, read by Rerun's own package.

    pip install rerun-sdk==0.28.2
    python check_rerun.py CLIP.rrd CLIP.3d.json
"""

import json
import sys

import numpy as np
from rerun import dataframe

recording, results = dataframe.load_recording(sys.argv[1]), json.load(open(sys.argv[2]))
entity = f"/world/person/{results.get('person', 1)}"
table = recording.view(index="time", contents=entity).select().read_all()
joints = next(name for name in table.column_names if name.endswith("positions"))
found, expected = np.array(table[joints].to_pylist(), dtype=float), np.array(results["world_mm"]) / 1000
assert found.shape == expected.shape, (found.shape, expected.shape)
worst = np.abs(found - expected).max()
print(f"{entity}: {len(found)} poses, largest difference {1000 * worst:.4f} mm")
sys.exit(worst > 1e-5)
