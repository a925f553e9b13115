#!/usr/bin/env python3
"""Judges samples by a second classifier, which shares neither code, architecture nor training with the first.

    python second_judge.py FILE-images-idx3-ubyte.gz ...

A residual network with 128 features, trained in PyTorch on MNIST's training images (once; its weights are kept in the
folder --cache), gives the Frechet distance of each file's first 10,000 images from the 10,000 test images. Recipes were
chosen by the first judge alone, so agreement of the two means that they were not fitted to it.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from quality import MNIST, read_images

SAMPLES = 10_000
EPOCHS = 8
BATCH = 250


class Block(nn.Module):
    """Two convolutions beside a shortcut, at half the resolution and with twice the channels."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * channels) for _ in range(3))

    def forward(self, x):
        y = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(y)) + self.norms[2](self.shortcut(x)))


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Block(16), Block(32), Block(64)
        )
        self.classes = nn.Linear(128, 10)

    def features(self, images):
        """The mean activations `[N, 128]` of the last block."""
        return self.blocks(images).mean(dim=(2, 3))

    def forward(self, images):
        return self.classes(self.features(images))


def read_idx(path):
    """The images `[N, 1, 28, 28]` in [-1, 1] of an IDX file."""
    content = gzip.decompress(path.read_bytes())
    _, count, rows, columns = struct.unpack(">4I", content[:16])
    pixels = torch.frombuffer(bytearray(content[16:]), dtype=torch.uint8)
    return pixels.reshape(count, 1, rows, columns).float() / 127.5 - 1


def read_labels(path):
    return torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())[8:]), dtype=torch.uint8).long()


def train(judge):
    images, labels = read_images(), read_labels(MNIST / "train-labels-idx1-ubyte.gz")
    steps = EPOCHS * len(images) // BATCH
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(judge(images[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def frechet_distance(first, second):
    """The squared distance of two normal distributions (Dowson and Landau 1982) fitted to features `[N, F]`."""

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    (mean, covariance), (other_mean, other) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (first, second))
    half = root(covariance)
    cross = np.linalg.eigvalsh(half @ other @ half).clip(0)
    return ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other) - 2 * np.sqrt(cross).sum()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("files", type=Path, nargs="+")
    args.add_argument("--cache", type=Path, default=Path("target/peers"))
    args = args.parse_args()
    torch.manual_seed(1)
    judge, weights = Judge(), args.cache / "second-judge.pt"
    if weights.exists():
        judge.load_state_dict(torch.load(weights, weights_only=True))
    else:
        train(judge)
        args.cache.mkdir(parents=True, exist_ok=True)
        torch.save(judge.state_dict(), weights)
    judge.eval()

    @torch.no_grad()
    def features(images):
        return torch.cat([judge.features(part) for part in images.split(BATCH)]).double().numpy()

    test = read_idx(MNIST / "t10k-images-idx3-ubyte.gz")
    with torch.no_grad():
        answers = torch.cat([judge(part).argmax(1) for part in test.split(BATCH)])
    right = (answers == read_labels(MNIST / "t10k-labels-idx1-ubyte.gz")).double().mean()
    print(f"the second judge is right on {100 * right:.2f}% of the test images")
    test = features(test)
    print(f"{frechet_distance(features(read_images()[:SAMPLES]), test):8.3f}  training images")
    for file in args.files:
        images = read_idx(file)[:SAMPLES]
        assert len(images) == SAMPLES, f"{file}: {len(images)} images, and {SAMPLES} are needed"
        print(f"{frechet_distance(features(images), test):8.3f}  {file}")


if __name__ == "__main__":
    main()
