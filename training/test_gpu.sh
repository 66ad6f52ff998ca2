#!/usr/bin/env bash
# The whole of gpu.sh on a CPU, with a tiny model and little text: packs, unpacks, trains, leaves, resumes, packs, joins.
#
#   training/test_gpu.sh CORPUS.tar.zst
#
# Takes a few minutes. Needs the packages of training/README.md.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export WORK=$work/machine DEVICE=cpu ROWS=2 SHAPE=tiny TRAIN_FLAGS=--eager
python3 "$here/pack.py" pack "$work/loads" --corpus "$1" --loads 2 --load-mib 5
for n in 1 2; do "$here/gpu.sh" load "$work/loads/load-$n.tar"; done
"$here/gpu.sh" load "$work/loads/load-2.tar" | grep "there already"
"$here/gpu.sh" train laconic-m 1 0.5
grep -q "left; go on" "$WORK/laconic-m/run.log"
"$here/gpu.sh" train laconic-m 1 0.7
"$here/gpu.sh" pack laconic-m "$work/out"
"$here/gpu.sh" join "$work/out" "$work/model"
python3 - "$here" "$work/model" <<'EOF'
import sys
sys.path.insert(0, sys.argv[1])
import model
print("parameters of the model that came back:", sum(p.numel() for p in model.load(sys.argv[2]).parameters()))
EOF
"$here/gpu.sh" train laconic-s 0.5
"$here/gpu.sh" pack laconic-s "$work/small"
"$here/gpu.sh" join "$work/small" "$work/s"
test -e "$work/s/model.safetensors" -a -e "$work/s/stable/model.safetensors"
echo "test_gpu.sh: passed"
