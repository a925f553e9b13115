#!/usr/bin/env python3
"""The same model and recipe in PyTorch: images per second of a whole iteration, on THREADS threads.

    python dcgan_torch.py [--batch 32] [--threads 1] [--steps 20]

Needs torch. Prints one line for each memory layout; the best is what this project compares itself with.
"""

import argparse
import time

import torch
from torch import nn


def bn(channels):
    # Keras's momentum 0.8 is PyTorch's 0.2.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2)


class SameConv(nn.Module):
    """A 3x3 convolution with Keras's 'same' padding: at stride 2 an even size is padded after only."""

    def __init__(self, inputs, outputs, stride, size):
        super().__init__()
        before = 1 if stride == 1 or size % 2 else 0
        self.pad = None if before else nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, before)

    def forward(self, x):
        return self.conv(self.pad(x) if self.pad else x)


def discriminator():
    act = lambda: nn.LeakyReLU(0.2)
    return nn.Sequential(
        SameConv(1, 32, 2, 28), bn(32), act(),
        SameConv(32, 64, 2, 14), bn(64), act(),
        SameConv(64, 128, 2, 7), bn(128), act(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1),
    )


def generator():
    up = lambda: nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(
        nn.Linear(100, 1568), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.Conv2d(32, 64, 3, padding=1), bn(64), nn.ReLU(), up(),
        nn.Conv2d(64, 128, 3, padding=1), bn(128), nn.ReLU(), up(),
        nn.Conv2d(128, 64, 3, padding=1), bn(64), nn.ReLU(),
        nn.Conv2d(64, 1, 3, padding=1), nn.Tanh(),
    )


def step(g, d, opt_g, opt_d, real, z):
    loss = nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
    opt_d.zero_grad()
    loss(d(real), ones).backward()
    opt_d.step()
    fake = g(z)
    opt_d.zero_grad()
    loss(d(fake.detach()), zeros).backward()
    opt_d.step()
    opt_g.zero_grad()
    for p in d.parameters():
        p.requires_grad_(False)
    loss(d(fake), ones).backward()
    for p in d.parameters():
        p.requires_grad_(True)
    opt_g.step()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--batch", type=int, default=32)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--repeats", type=int, default=5)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(22)
        g, d = (m.to(memory_format=layout) for m in (generator(), discriminator()))
        adam = lambda m: torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999), 1e-7)
        opt_g, opt_d = adam(g), adam(d)
        real = torch.randn(args.batch, 1, 28, 28).to(memory_format=layout)
        rates = []
        for repeat in range(args.repeats + 1):
            start = time.perf_counter()
            for _ in range(args.steps):
                step(g, d, opt_g, opt_d, real, torch.randn(args.batch, 100))
            rates.append(args.batch * args.steps / (time.perf_counter() - start))
        rates = sorted(rates[1:])
        print(f"torch {torch.__version__} {layout}: {rates[len(rates) // 2]:.1f} images/s (best {rates[-1]:.1f})", flush=True)


if __name__ == "__main__":
    main()
