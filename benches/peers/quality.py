#!/usr/bin/env python3
"""Trains the tutorial's recipe on MNIST in PyTorch, and writes samples that `dcgan-sampler eval` judges.

    python quality.py --out FOLDER [--seed 22] [--epochs 20] [--samples-after 1,5,10,20] [--threads 2]
    dcgan-sampler eval --images FOLDER/seed-22-epoch-20-images-idx3-ubyte.gz

The networks, losses, optimizer and initial weights are those of this program, but its batch of 256 is one batch norm
group, as in Keras.
"""

import argparse
import gzip
import struct
import time
from pathlib import Path

import torch
from torch import nn

from dcgan_torch import discriminator, generator, step

MNIST = Path(__file__).resolve().parent.parent.parent / "crates" / "dcgan-store" / "mnist"
SAMPLES = 10_000


def read_images():
    """MNIST's training images, `[60000, 1, 28, 28]` in [-1, 1]."""
    file = gzip.decompress((MNIST / "train-images-idx3-ubyte.gz").read_bytes())
    _, count, rows, columns = struct.unpack(">4I", file[:16])
    pixels = torch.frombuffer(bytearray(file[16:]), dtype=torch.uint8)
    return pixels.reshape(count, 1, rows, columns).float() / 127.5 - 1


def write_images(path, images):
    """Writes images `[N, 1, 28, 28]` in [-1, 1] as an IDX file."""
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte()
    header = struct.pack(">4I", 0x803, len(pixels), *pixels.shape[2:])
    with gzip.open(path, "wb") as file:
        file.write(header + pixels.numpy().tobytes())


def initialize(network):
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--seed", type=int, default=22)
    args.add_argument("--epochs", type=int, default=20)
    args.add_argument("--samples-after", default="1,5,10,20")
    args.add_argument("--batch", type=int, default=256)
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sample_after = {int(epoch) for epoch in args.samples_after.split(",")}

    images = read_images()
    g, d = generator(), discriminator()
    for network in (g, d):
        initialize(network)
        network.to(memory_format=torch.channels_last)
    opt_g, opt_d = (torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), eps=1e-7) for network in (g, d))
    for epoch in range(1, args.epochs + 1):
        start = time.time()
        order = torch.randperm(len(images))
        for first in range(0, len(images) - args.batch + 1, args.batch):
            real = images[order[first : first + args.batch]].contiguous(memory_format=torch.channels_last)
            step(g, d, d, opt_g, opt_d, real, torch.randn(args.batch, 100))
        print(f"epoch {epoch}: {time.time() - start:.0f} s", flush=True)
        if epoch in sample_after:
            g.eval()
            with torch.no_grad():
                samples = torch.cat([g(torch.randn(500, 100)) for _ in range(SAMPLES // 500)])
            g.train()
            write_images(args.out / f"seed-{args.seed}-epoch-{epoch}-images-idx3-ubyte.gz", samples)


if __name__ == "__main__":
    main()
