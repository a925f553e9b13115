#!/bin/sh
# Trains 60 steps and compares what PyTorch, Keras and an ONNX runtime draw with the weights. A run
# that is given weights which PyTorch has saved must begin with the same bits. Needs release builds
# of the programs, and a Python (python3, or $PYTHON) with the modules below. Where it cannot run,
# it says so.
set -eu
cd "$(dirname "$0")/.."
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
python="${PYTHON:-python3}"

skip() {
    echo "interop/check.sh: skipped: $1"
    exit 0
}
[ -x "$bin/dcgan-coord" ] || {
    echo "interop/check.sh: there are no programs in $bin; run cargo build --release" >&2
    exit 1
}
needed="import torch, safetensors, numpy, onnx, onnxscript, onnxruntime, keras, tensorflow"
"$python" -c "$needed" 2>/dev/null || skip "$python lacks a module of: ${needed#import }"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$bin/dcgan-coord" --local --quiet --workers 2 --steps 60 --out "$out/run"
state=$out/run/checkpoints/step-00000060/state.safetensors
"$bin/dcgan-sampler" latents --run "$out/run" --count 64 --seed 7 --out "$out/latents.npy"
for weights in ema raw; do
    from="--run $out/run --weights $weights --count 64 --seed 7"
    # shellcheck disable=SC2086
    "$bin/dcgan-sampler" export $from --out "$out/$weights-floats.npy"
    # shellcheck disable=SC2086
    "$bin/dcgan-sampler" export $from --out "$out/$weights.idx"
    for program in pytorch keras; do
        "$python" "interop/load_$program.py" "$state" --weights $weights \
            --latents "$out/latents.npy" --out "$out/$weights-$program.npy"
    done
done
"$python" interop/load_pytorch.py "$state" --weights raw --onnx "$out/raw.onnx"
# From PyTorch back to a run.
PYTHONPATH=interop "$python" -c "
from load_pytorch import load
from safetensors.torch import save_file
save_file(load('$state', 'raw').state_dict(), '$out/saved.safetensors')"
"$bin/dcgan-coord" --local --quiet --workers 2 --steps 2 --out "$out/next" \
    --init-from "$out/saved.safetensors"
"$python" interop/check.py "$out"
echo "interop/check.sh: passed"
