#!/usr/bin/env bash
# Copies the vectors that tests need often out of the founders' shared folder. Usage: copy.sh SHARED/reference
set -euo pipefail
from=${1:?folder of the reference vectors}; to=$(dirname "$0")
for name in official official_smooth_input official_with_optimizer original_mamba_gcn_legacy original_mamba_gcn_fixed \
    original_full_legacy original_full_fixedmamba original_baseline option_hierarchical; do
  mkdir -p "$to/tiny/$name"
  cp "$from/tiny/$name"/{best*.pth*,input.npy,output.npy,output_f64.npy,output_flip_tta.npy,layer0_out.npy,meta.json} "$to/tiny/$name/"
done
cp "$from/tiny/official_with_optimizer"/{numpy1,legacy_tar}_* "$to/tiny/official_with_optimizer/"
cp -r "$from"/{scan,losses,metrics,train} "$to/"
chmod -R u+w "$to"
