#!/usr/bin/env bash
# Trains on a bare machine with PyTorch and without a network: unpacks and tokenises the corpus, trains, evaluates, packs.
#
#   training/gpu.sh CORPUS.tar.zst INIT_FOLDER OUT MINUTES
#
# INIT_FOLDER: the model to continue from, in the public layout, with its tokenizer.json. Needs python3 with torch, numpy,
# tokenizers, safetensors and zstandard. Settings from the environment, with their defaults:
#   DEVICE=cuda ROWS=32 PASSES=1 THREADS=16 LIMIT_MB=100000 TEST_SET= DEBIAN= NPM= TRAIN_FLAGS=
# Continue an interrupted run: TRAIN_FLAGS=--resume with the same OUT. The result is OUT/model.tar with final/ and the log.
set -euo pipefail
[ $# = 4 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
corpus=$1 init=$2 out=$3 minutes=$4
here=$(cd "$(dirname "$0")" && pwd)
python3 -c 'import torch, numpy, tokenizers, safetensors, zstandard'
mkdir -p "$out"

if [ ! -e "$out/tokens/code.u16" ]; then
    python3 "$here/data.py" "$out/tokens" --corpus "$corpus" --tokenizer "$init/tokenizer.json" --limit-mb "${LIMIT_MB:-100000}" \
        --sources "$out/SOURCES.md" ${TEST_SET:+--test-set "$TEST_SET"} ${DEBIAN:+--debian "$DEBIAN"} ${NPM:+--npm "$NPM"}
fi
# shellcheck disable=SC2086
python3 "$here/train.py" "$out/tokens" "$out/run" --tokenizer "$init/tokenizer.json" --init "$init" --minutes "$minutes" \
    --device "${DEVICE:-cuda}" --rows "${ROWS:-32}" --passes "${PASSES:-1}" --threads "${THREADS:-16}" ${TRAIN_FLAGS:-} 2>&1 | tee -a "$out/run.log"
python3 "$here/export.py" "$out/run/stable.pt" "$out/run/stable" --tokenizer "$init/tokenizer.json" --float32
tar -C "$out" -cf "$out/model.tar" run/final run/stable run.log SOURCES.md
ls -l "$out/model.tar"
