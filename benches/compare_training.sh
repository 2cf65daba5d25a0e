#!/usr/bin/env bash
# Our training step against the plain PyTorch twin, interleaved (twin, ours, twin, ours, ...) on one machine, same threads, same batch.
#   benches/compare_training.sh                                  Base and the 16.25 M MotionAGFormer + MambaGCN: 243 frames, batch 2, 2 threads
#   benches/compare_training.sh --models xs --batch 8 --rounds 2
#   --models "b mamba-gcn"  of xs, s, b, l, mamba-gcn      --rounds 3  runs of each      --steps 2  counted steps of a run, after one to warm up
#   --batch 2   --threads 2   --layers N  instead of the model's, for a quick look   --device cpu|cuda   --bf16  ours, the twin stays in f32
#   --keep-pages  tells the twin's allocator too to keep freed memory (ours always does)
# Prints ratios of medians over all counted steps, and the largest peak memory. Nothing else should run on the machine.
# PYTHON is a Python with benches/python/requirements.txt, TRAINER the release build of `trainer`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} trainer=${TRAINER:-target/release/trainer}
models="b mamba-gcn" rounds=3 steps=2 batch=2 threads=2 layers= device=cpu bf16= keep_pages=
while [ $# -gt 0 ]; do
  case $1 in
    --models) models=$2; shift ;; --rounds) rounds=$2; shift ;; --steps) steps=$2; shift ;; --batch) batch=$2; shift ;;
    --threads) threads=$2; shift ;; --layers) layers=$2; shift ;; --device) device=$2; shift ;;
    --bf16) bf16=1 ;; --keep-pages) keep_pages=1 ;;
    -h|--help) sed -n '2,/^set/p' benches/compare_training.sh | sed '$d; s/^# \{0,1\}//'; exit ;;
    *) echo "compare_training.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
"$python" -c 'import torch' 2>/dev/null || { echo "compare_training.sh: $python has no PyTorch: pip install -r benches/python/requirements.txt, and PYTHON=that/python" >&2; exit 1; }
[ -x "$trainer" ] || { echo "compare_training.sh: $trainer is absent: cargo build --release -p trainer, or set TRAINER" >&2; exit 1; }

out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
for model in $models; do
  # Both take the official loss and AdamW, so that only the engines differ.
  same=(--set train.batch_size="$batch" --set train.optimiser.kind=adamw --set train.optimiser.weight_decay=0.01
        --set train.loss.mpjpe=1.0 --set train.loss.n_mpjpe=0.5 --set train.loss.velocity=20.0)
  twin=()
  if [ -n "$layers" ]; then same+=(--set model.n_layers="$layers"); twin+=(--layers "$layers"); fi
  if [ -n "$bf16" ]; then same+=(--set train.precision=bf16); fi
  case $model in mamba-gcn) config=mamba-gcn-report ;; *) config=motionagformer-$model ;; esac
  allocator=(); [ -z "$keep_pages" ] || allocator=(env MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=137438953472)
  for round in $(seq "$rounds"); do
    echo "$model, round $round of $rounds: the twin" >&2
    "${allocator[@]}" "$python" benches/python/train_step.py --model "$model" --batch "$batch" --threads "$threads" --warm-up 1 --steps "$steps" \
      --device "$device" "${twin[@]}" | sed "s/^/$model twin /" >>"$out/lines"
    echo "$model, round $round of $rounds: ours" >&2
    "$trainer" bench --config "models/configs/$config.toml" "${same[@]}" --threads "$threads" --warm-up 1 --steps "$steps" --device "$device" --json |
      sed "s/^/$model ours /" >>"$out/lines"
  done
done

"$python" - "$out/lines" <<'P'
import json, statistics, sys
runs = {}
for line in open(sys.argv[1]):
    model, engine, text = line.split(" ", 2)
    run = runs.setdefault(model, {}).setdefault(engine, {"steps": [], "memory": [], "summary": None})
    record = json.loads(text)
    if "engine" in record:
        run["memory"].append(record["peak_memory_mib"])
        run["summary"] = record
    elif not record["warm_up"]:
        run["steps"].append(record["step_ms"])
for model, engines in runs.items():
    of = engines["ours"]["summary"]
    print(f"\n{model}: {of['parameters'] / 1e6:.2f} M parameters, {of['frames']} frames, batch {of['batch']}, {of['threads']} threads, {of['device']}, ours in {of['precision']}")
    medians = {}
    for engine in ("twin", "ours"):
        steps, memory = engines[engine]["steps"], engines[engine]["memory"]
        medians[engine] = statistics.median(steps)
        peak = "not measured" if None in memory else f"{max(memory):.0f} MiB"
        print(f"  {engines[engine]['summary']['engine']:<28} step {medians[engine]:9.0f} ms (median of {len(steps)}, {min(steps):.0f} to {max(steps):.0f}), {1e3 * of['batch'] / medians[engine]:.3f} samples/s, peak {peak}")
    line = f"  ours makes {medians['twin'] / medians['ours']:.2f} times the samples per second"
    if None not in engines["ours"]["memory"]:
        line += f" with {max(engines['ours']['memory']) / max(engines['twin']['memory']):.2f} times the memory"
    print(line)
P
