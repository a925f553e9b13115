#!/usr/bin/env python3
"""Trains the same model with the same settings in PyTorch; measures images per second of whole iterations.

    python dcgan_torch.py [--batch 32] [--threads 1] [--steps 20] [--form channels_last|contiguous|compiled]
    torchrun --nproc-per-node 2 dcgan_torch.py --batch 128      DistributedDataParallel over Gloo

Prints one line: images per second (the median of several repeats, and the best), the seconds from the start of the
process to the end of the first iteration, and the peak resident memory in MiB.
"""

import argparse
import os
import resource
import time

START = time.time()

import torch
from torch import nn


def bn(channels):
    # A momentum of 0.8 in Keras is one of 0.2 in PyTorch.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2)


class SameConv(nn.Module):
    """A 3x3 convolution with the padding 'same' of Keras. At stride 2, an even size gets it only at the end."""

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


def step(g, d, d_alone, opt_g, opt_d, real, z):
    """`d_alone` shares d's weights, and does not reduce gradients: the generator's phase needs none of D's."""
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
    for p in d_alone.parameters():
        p.requires_grad_(False)
    loss(d_alone(fake), ones).backward()
    for p in d_alone.parameters():
        p.requires_grad_(True)
    opt_g.step()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--batch", type=int, default=32, help="images of each process")
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--repeats", type=int, default=5)
    args.add_argument("--form", choices=["channels_last", "contiguous", "compiled"], default="channels_last")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(22)
    layout = torch.contiguous_format if args.form == "contiguous" else torch.channels_last
    g, d = (m.to(memory_format=layout) for m in (generator(), discriminator()))
    adam = lambda m: torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999), 1e-7)
    opt_g, opt_d = adam(g), adam(d)
    d_alone, world, rank = d, int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        torch.distributed.init_process_group("gloo")
        parallel = nn.parallel.DistributedDataParallel
        # Each process keeps its own batch statistics, so its buffers are not broadcast either.
        g, d = (parallel(m, broadcast_buffers=False) for m in (g, d))
    run = torch.compile(step) if args.form == "compiled" else step
    real = torch.randn(args.batch, 1, 28, 28).to(memory_format=layout)
    rates, first = [], None
    for repeat in range(args.repeats + 1):
        start = time.perf_counter()
        for _ in range(args.steps):
            run(g, d, d_alone, opt_g, opt_d, real, torch.randn(args.batch, 100))
            first = first or time.time() - START
        rates.append(world * args.batch * args.steps / (time.perf_counter() - start))
    rates = sorted(rates[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if rank == 0:
        print(f"{rates[len(rates) // 2]:.1f} images/s (best {rates[-1]:.1f}), first step after {first:.2f} s, peak {peak:.0f} MiB", flush=True)
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
