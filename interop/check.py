"""Compares what check.sh has drawn."""

import sys
from pathlib import Path

import load_keras
import load_pytorch
import numpy as np
import onnxruntime
import torch
from safetensors.numpy import load_file

out = Path(sys.argv[1])
state = out / "run/checkpoints/step-00000060/state.safetensors"


def compare(what, found, expected, most):
    difference = np.abs(found.astype(np.float64) - expected).max()
    print(f"{what}: the largest difference is {difference:.2g}, at most {most:.2g} is allowed")
    assert found.shape == expected.shape and difference <= most, what


latents = np.load(out / "latents.npy")
assert latents.shape == (64, 100) and latents.dtype == np.float32
for weights in ["ema", "raw"]:
    expected = np.load(out / f"{weights}-floats.npy")
    pixels = np.fromfile(out / f"{weights}.idx", np.uint8, offset=16).reshape(64, 28, 28)
    # A byte stands for a 255th of the range of 2.
    compare(f"bytes, {weights}", pixels / 127.5 - 1, expected, 1 / 255 + 1e-6)
    for program in ["pytorch", "keras"]:
        compare(f"{program}, {weights}", np.load(out / f"{weights}-{program}.npy"), expected, 1e-4)
assert np.abs(np.load(out / "ema-floats.npy") - np.load(out / "raw-floats.npy")).max() > 1e-3

images = onnxruntime.InferenceSession(out / "raw.onnx").run(None, {"latents": latents})[0]
compare("onnx, raw", images[:, 0], np.load(out / "raw-floats.npy"), 1e-4)

# The discriminators. This program gives no logits, so these are compared with each other.
_, keras_discriminator = load_keras.load(state)
dcgan = load_pytorch.load(state, "raw")
with torch.no_grad():
    logits = dcgan.discriminator(torch.from_numpy(images)).numpy()
compare("logits", keras_discriminator.predict(images.transpose(0, 2, 3, 1), verbose=0), logits, 1e-4)

# The run that has begun with weights that PyTorch has saved.
begun, trained = load_file(out / "next/initial.safetensors"), load_file(state)
assert len(begun) == 42
for name, tensor in begun.items():
    assert np.array_equal(tensor, trained[name]), name
print("a run begins with the very weights that PyTorch has saved")
