#!/usr/bin/env python3
"""Makes step.safetensors: one iteration of the recipe in PyTorch, in float64, for the test in src/vectors_test.rs.

    pip install torch numpy safetensors && python make.py

Weights and images come from an integer hash that the test computes too, so that the file stays small; of each tensor it
holds a sample of the entries, and the largest. The seed is one with which PyTorch's own float32 passes the test's bounds.
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

IMAGES = 8
SAMPLE = 400
EPS, MOMENTUM, LR = 1e-3, 0.2, 2e-4
U64 = np.uint64


def uniforms(seed, tensor, n):
    """SplitMix64's finalizer of a counter, as numbers in [-1, 1) with 24 bits."""
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=U64) + (U64(seed) << U64(48)) + (U64(tensor) << U64(32))
        z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
        z = z ^ (z >> U64(31))
    return (z >> U64(40)).astype(np.float64) / 2**23 - 1


class SameConv(nn.Conv2d):
    """Keras's 'same' padding at stride 2: an even size is padded after only."""

    def forward(self, x):
        if self.stride == (2, 2):
            x = nn.functional.pad(x, (0, 1, 0, 1) if x.shape[-1] % 2 == 0 else (1, 1, 1, 1))
        return super().forward(x)


class BatchNorm(nn.Module):
    """By batch statistics, with the running statistics that this project keeps: of the biased variance."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean, self.running_var = torch.zeros(channels), torch.ones(channels)
        self.keep = True

    def forward(self, x):
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        if self.keep:
            self.running_mean = (1 - MOMENTUM) * self.running_mean + MOMENTUM * mean.detach()
            self.running_var = (1 - MOMENTUM) * self.running_var + MOMENTUM * var.detach()
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var + EPS).sqrt().view(shape)
        return x * self.weight.view(shape) + self.bias.view(shape)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(100, 1568)
        self.conv1, self.bn1 = nn.Conv2d(32, 64, 3, padding=1), BatchNorm(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 128, 3, padding=1), BatchNorm(128)
        self.conv3, self.bn3 = nn.Conv2d(128, 64, 3, padding=1), BatchNorm(64)
        self.conv4 = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, z):
        up = lambda x: nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        x = torch.relu(self.dense(z)).view(-1, 32, 7, 7)
        x = up(torch.relu(self.bn1(self.conv1(x))))
        x = up(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.bn3(self.conv3(x)))
        return torch.tanh(self.conv4(x))


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = SameConv(1, 32, 3, 2), BatchNorm(32)
        self.conv2, self.bn2 = SameConv(32, 64, 3, 2), BatchNorm(64)
        self.conv3, self.bn3 = SameConv(64, 128, 3, 2), BatchNorm(128)
        self.dense = nn.Linear(128, 1)

    def forward(self, x):
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = nn.functional.leaky_relu(bn(conv(x)), 0.2)
        return self.dense(x.mean((2, 3)))


def iteration(seed, dtype):
    """The names and values that one iteration gives."""
    torch.set_default_dtype(dtype)
    networks = {"generator": Generator(), "discriminator": Discriminator()}
    number = 0
    for network in networks.values():
        for name, parameter in network.named_parameters():
            values = uniforms(seed, number, parameter.numel())
            if parameter.dim() > 1:
                fan = parameter.shape[0] + parameter.shape[1]
                values = values * np.float32(np.sqrt(6 / (fan * parameter[0, 0].numel())))
            elif name.startswith("bn") and name.endswith("weight"):
                values = 1 + 0.25 * values
            else:
                values = 0.1 * values
            # In single precision, as the test has them.
            values = torch.tensor(values.astype(np.float32)).view(parameter.shape)
            parameter.data = values.to(dtype)
            number += 1
    pixels = ((uniforms(seed, 100, IMAGES * 784) + 1) * 128).astype(np.uint8)
    images = (torch.tensor(pixels.astype(np.float32)) / 127.5 - 1).to(dtype).view(IMAGES, 1, 28, 28)
    latents = torch.tensor((2 * uniforms(seed, 101, IMAGES * 100)).astype(np.float32)).to(dtype).view(IMAGES, 100)

    g, d = networks["generator"], networks["discriminator"]
    loss = nn.functional.binary_cross_entropy_with_logits
    adam = {name: torch.optim.Adam(n.parameters(), LR, (0.5, 0.999), 1e-7) for name, n in networks.items()}
    out = {}

    def update(phase, name, logits, target):
        value = loss(logits, torch.full_like(logits, target))
        adam[name].zero_grad()
        value.backward()
        out[f"loss.{phase}"] = value.detach().view(1)
        for parameter, tensor in networks[name].named_parameters():
            out[f"gradient.{phase}.{name}.{parameter}"] = tensor.grad.clone()
        adam[name].step()

    update("real", "discriminator", d(images), 1.0)
    fake = g(latents)
    update("fake", "discriminator", d(fake.detach()), 0.0)
    for layer in (d.bn1, d.bn2, d.bn3):
        layer.keep = False
    update("generate", "generator", d(fake), 1.0)
    for name, network in networks.items():
        for parameter, tensor in network.named_parameters():
            out[f"weight.{name}.{parameter}"] = tensor.detach()
        for layer in ("bn1", "bn2", "bn3"):
            for statistic in ("running_mean", "running_var"):
                out[f"running.{name}.{layer}.{statistic}"] = getattr(getattr(network, layer), statistic)
    return {name: tensor.double().flatten().numpy() for name, tensor in out.items()}


def is_cancelled(name):
    """A bias in front of a batch norm: its gradient is rounding only."""
    return name.endswith(("conv1.bias", "conv2.bias", "conv3.bias"))


def worst(exact, single):
    """By how many times its bound an entry is off at most."""
    ratios = {}
    for name, values in exact.items():
        error, largest = np.abs(values - single[name]).max(), np.abs(values).max()
        kind = name.split(".")[0]
        if is_cancelled(name):
            ratios[name] = error / (3 * LR) if kind == "weight" else 0
        else:
            ratios[name] = error / {"loss": 1e-5, "gradient": 1e-4 * largest, "running": 1e-3 * largest, "weight": 5e-5}[kind]
    return max(ratios.items(), key=lambda item: item[1])


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    exact, single = iteration(seed, torch.float64), iteration(seed, torch.float32)
    name, ratio = worst(exact, single)
    print(f"seed {seed}: PyTorch's float32 reaches {ratio:.3f} of a bound, in {name}")
    if ratio > 0.5:
        sys.exit("choose another seed")
    file = {"seed": np.array([seed], np.float32)}
    for name, values in exact.items():
        stride = -(-len(values) // SAMPLE)
        file[name] = np.concatenate([[np.abs(values).max()], values[::stride]]).astype(np.float32)
    save_file(file, "step.safetensors")


if __name__ == "__main__":
    main()
