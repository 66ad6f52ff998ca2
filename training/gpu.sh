#!/usr/bin/env bash
# Trains laconic-s and laconic-m on a bare machine with PyTorch and without a network, one call after another.
#
#   training/gpu.sh load LOAD.tar...         unpacks and tokenises what `pack.py pack` packed; more loads may follow
#   training/gpu.sh train NAME MINUTES [N]   trains NAME (laconic-s goes on from training/stable) for MINUTES in all; leaves after N
#                                            minutes, and the same line goes on where it left
#   training/gpu.sh pack NAME OUT [PART...]  the result in pieces of 16 MiB: all, or those named (aa ab ...)
#   training/gpu.sh join OUT FOLDER          the pieces together again: a folder that `laconicfs model import` takes
#
# A lease of 30 minutes, at most 10 a command, 64 MiB in and out at a time, in five calls (this tree travels with each):
#   1  load load-1.tar                                             about 1.5 minutes with the start
#   2  load load-2.tar                                             1
#   3  load load-3.tar && train laconic-s 8 && pack laconic-s OUT  9.5
#   4  train laconic-m 15 8.5                                      9
#   5  train laconic-m 15 8.5 && pack laconic-m OUT                7.5
#
# Settings from the environment, with their defaults:
#   WORK=/tmp/laconic DEVICE=cuda ROWS=64 PASSES=1 SHAPE=NAME STABLE=training/stable TRAIN_FLAGS=
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-/tmp/laconic}
device=${DEVICE:-cuda}
tokenizer=$here/stable/tokenizer.json
[ -e "$tokenizer" ] || tokenizer=$here/../models/laconic-s/tokenizer.json

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
    exit 2
}

load() {
    [ $# -gt 0 ] || usage
    python3 "$here/pack.py" unpack "$@" "$work/tokens" --tokenizer "$tokenizer"
}

train() {
    [ $# -ge 2 ] || usage
    local name=$1 minutes=$2 leave=${3:-} run=$work/$1
    local flags=(--tokenizer "$tokenizer" --device "$device" --rows "${ROWS:-64}" --passes "${PASSES:-1}" --threads "$(nproc)" --pausing)
    mkdir -p "$run"
    if [ -e "$run/checkpoint.pt" ]; then
        flags+=(--resume)
    else
        flags+=(--minutes "$minutes" --seed 22)
        case $name in
            laconic-s) flags+=(--init "${STABLE:-$here/stable}") ;;
            *) flags+=(--shape "${SHAPE:-$name}") ;;
        esac
    fi
    [ -z "$leave" ] || flags+=(--leave-after "$leave")
    [ "$device" = cpu ] || nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
    # shellcheck disable=SC2086
    python3 "$here/train.py" "$work/tokens" "$run" "${flags[@]}" ${TRAIN_FLAGS:-} 2>&1 | tee -a "$run/run.log"
}

pack() {
    [ $# -ge 2 ] || usage
    local name=$1 out=$2 run=$work/$1 pieces=$work/$1/pieces
    shift 2
    if [ ! -e "$pieces/$name.part-aa" ]; then
        mkdir -p "$pieces"
        [ -e "$run/final/config.json" ] || python3 "$here/export.py" "$run/checkpoint.pt" "$run/final" --tokenizer "$tokenizer"
        cp "$run/run.log" "$run/final/training.log"
        # laconic-s is small: the weights before the rate fell come along, to go on from.
        [ "$name" != laconic-s ] || [ ! -e "$run/stable.pt" ] || \
            python3 "$here/export.py" "$run/stable.pt" "$run/final/stable" --tokenizer "$tokenizer"
        tar -C "$run/final" -cf - . | split -b 16M - "$pieces/$name.part-"
    fi
    mkdir -p "$out"
    for piece in "$pieces"/*; do
        [ $# = 0 ] || [[ " $* " = *" ${piece##*-} "* ]] || continue
        cp "$piece" "$out/"
    done
    ls -l "$pieces"
    sha256sum "$pieces"/*
}

join() {
    [ $# = 2 ] || usage
    mkdir -p "$2"
    cat "$1"/*.part-* | tar -C "$2" -xf -
    ls -l "$2"
}

case ${1:-} in
    load | train | pack | join) "$@" ;;
    *) usage ;;
esac
