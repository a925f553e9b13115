#!/usr/bin/env python3
"""Loads the networks of a checkpoint into PyTorch, draws images with the generator, and writes it as ONNX.

    python3 interop/load_pytorch.py runs/dcgan/checkpoints/step-00004680/state.safetensors \
        --latents latents.npy --out digits.png --onnx generator.onnx

`dcgan-sampler latents` writes the latent vectors that `dcgan-sampler export` draws with, so both draw the same images.
Needs torch, safetensors and numpy; pillow for a PNG; onnx and onnxscript for ONNX.
"""

import argparse

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn


def batch_norm(channels):
    # PyTorch's momentum is the weight of the new value, Keras's (0.8) that of the old one.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2)


class Generator(nn.Module):
    """Turns latents [N, 100] into images [N, 1, 28, 28] with values from -1 to 1."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(100, 32 * 7 * 7)
        self.conv1, self.bn1 = nn.Conv2d(32, 64, 3, padding=1), batch_norm(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 128, 3, padding=1), batch_norm(128)
        self.conv3, self.bn3 = nn.Conv2d(128, 64, 3, padding=1), batch_norm(64)
        self.conv4 = nn.Conv2d(64, 1, 3, padding=1)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, latents):
        x = self.dense(latents).relu().reshape(-1, 32, 7, 7)
        x = self.upsample(self.bn1(self.conv1(x)).relu())
        x = self.upsample(self.bn2(self.conv2(x)).relu())
        x = self.bn3(self.conv3(x)).relu()
        return self.conv4(x).tanh()


class Discriminator(nn.Module):
    """Turns images [N, 1, 28, 28] into logits [N, 1], which are positive for images that look real."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 32, 3, stride=2), batch_norm(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 64, 3, stride=2), batch_norm(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, stride=2), batch_norm(128)
        self.dense = nn.Linear(128, 1)

    def forward(self, images):
        x = images
        for conv, bn in [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]:
            # Keras's padding 'same' at stride 2: an even size gets one row, at the end; an odd one gets two.
            before = x.shape[-1] % 2
            x = nn.functional.pad(x, (before, 1, before, 1))
            x = nn.functional.leaky_relu(bn(conv(x)), 0.2)
        return self.dense(x.mean(dim=(2, 3)))


class DCGAN(nn.Module):
    """Both networks. Their tensors have the names that they have in a checkpoint, such as generator.conv1.weight."""

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = Generator(), Discriminator()


def load(path, weights=None):
    """Loads both networks, in inference mode.

    The generator's weights are their moving average ("ema"), as they were trained ("raw"), or the average if there is
    one.
    """
    tensors = load_file(path)
    # With spectral norm, the discriminator computes with weights that are divided by their norm.
    divided = {name: tensor for name, tensor in tensors.items() if name.startswith("spectral_norm.discriminator.")}
    tensors |= {name.removeprefix("spectral_norm."): tensor for name, tensor in divided.items()}
    prefix = {"ema": "ema.", "raw": ""}.get(weights, "ema." if "ema.generator.dense.weight" in tensors else "")
    state = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}generator."):
            state[name.removeprefix(prefix)] = tensor
        elif name.startswith("discriminator."):
            state[name] = tensor
    dcgan = DCGAN()
    dcgan.load_state_dict(state)
    return dcgan.eval()


def draw(generator, latents, batch=100):
    """Draws images [N, 28, 28] with values from -1 to 1."""
    with torch.no_grad():
        images = [generator(torch.from_numpy(some)) for some in np.array_split(latents, -(-len(latents) // batch))]
    return torch.cat(images).squeeze(1).numpy()


def write_images(images, path):
    """Writes images as a NumPy array, or as one picture of all of them, ten in a row."""
    if path.endswith(".npy"):
        return np.save(path, images)
    from PIL import Image

    bytes_ = np.rint((images + 1) * 127.5).astype(np.uint8)
    rows = -(-len(bytes_) // 10)
    grid = np.zeros((rows * 10, 28, 28), np.uint8)
    grid[: len(bytes_)] = bytes_
    Image.fromarray(grid.reshape(rows, 10, 28, 28).swapaxes(1, 2).reshape(rows * 28, 280)).save(path)


def write_onnx(generator, path):
    """Writes the generator as ONNX, for any number of latents at a time."""
    torch.onnx.export(
        generator,
        (torch.zeros(2, 100),),
        path,
        input_names=["latents"],
        output_names=["images"],
        dynamic_shapes={"latents": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )


def main():
    args = argparse.ArgumentParser()
    args.add_argument("state", help="state.safetensors of a checkpoint")
    args.add_argument("--weights", choices=["ema", "raw"], help="of the generator [default: ema, if there is one]")
    args.add_argument("--latents", help="NumPy array [N, 100], as dcgan-sampler latents writes it")
    args.add_argument("--out", help="where to write the images: .npy, or a picture such as .png")
    args.add_argument("--onnx", help="where to write the generator as ONNX")
    args = args.parse_args()
    dcgan = load(args.state, args.weights)
    if args.out:
        latents = np.load(args.latents) if args.latents else np.random.standard_normal((100, 100)).astype("float32")
        write_images(draw(dcgan.generator, latents), args.out)
    if args.onnx:
        write_onnx(dcgan.generator, args.onnx)


if __name__ == "__main__":
    main()
