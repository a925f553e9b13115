#!/usr/bin/env python3
"""Measures this program and its peers on the same cores, alternately, and prints the ratios.

    python3 benches/peers/compare.py [--repeats 3] [--python VENV/bin/python]

Needs Python 3 with venv; installs PyTorch and TensorFlow into target/peers unless a Python that has them is given.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).resolve().parent
ROOT = PEERS.parent.parent
# Without it, OpenMP takes all cores for each of several processes.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def python_with_peers():
    folder = ROOT / "target" / "peers"
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "pip", "install", "--quiet"]
        subprocess.run([*pip, "torch", "tensorflow-cpu"], check=True)
    return folder / "bin" / "python"


def run(command, environment=None):
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if result.returncode != 0:
        return None, result.stderr.strip().splitlines()[-1:]
    return result.stdout, None


def ours(size):
    """Measures a whole training: images per second, seconds to the first step, peak memory in MiB."""
    text, error = run(["cargo", "bench", "--quiet", "--bench", "system", "--", "--repeats", "1", "--steps", "60", size])
    if text is None:
        sys.exit(f"cargo bench: {error}")
    fields = text.strip().splitlines()[-1].split()
    return float(fields[1]), float(fields[4]), float(fields[5])


def peer(command, environment=None):
    text, error = run(command, environment)
    if text is None:
        return None
    rate, first, peak = re.search(r"([\d.]+) images/s.*after ([\d.]+) s, peak (\d+) MiB", text).groups()
    return float(rate), float(first), float(peak)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--repeats", type=int, default=3)
    args.add_argument("--python")
    args = args.parse_args()
    python = args.python or python_with_peers()
    torch = [python, PEERS / "dcgan_torch.py"]
    # The same as `torchrun`, with this Python. Each process gets its share of a batch of 256.
    ddp = lambda n: [python, "-m", "torch.distributed.run", "--nproc-per-node", n, PEERS / "dcgan_torch.py", "--batch", 256 // n, "--steps", 5]
    one, two = "this, 1 worker x 1 thread", "this, 2 workers x 1 thread"
    runs = {
        one: lambda: ours("1x1"),
        "PyTorch channels-last, 1 thread": lambda: peer([*torch]),
        "PyTorch contiguous, 1 thread": lambda: peer([*torch, "--form", "contiguous"]),
        "PyTorch compiled, 1 thread": lambda: peer([*torch, "--form", "compiled"]),
        "PyTorch batch 256, 1 thread": lambda: peer([*torch, "--batch", 256, "--steps", 4]),
        two: lambda: ours("2x1"),
        "PyTorch channels-last, 2 threads": lambda: peer([*torch, "--threads", 2, "--batch", 256, "--steps", 5]),
        "PyTorch DDP + Gloo, 2 processes": lambda: peer(ddp(2), ONE_THREAD),
        "PyTorch DDP + Gloo, 4 processes": lambda: peer(ddp(4), ONE_THREAD),
        "Keras, all cores": lambda: peer([python, PEERS / "dcgan_keras.py"]),
    }
    found = {name: [] for name in runs}
    for repeat in range(args.repeats):
        for name, measure in runs.items():
            measured = measure()
            print(f"{name:34}", "failed" if measured is None else "%.1f images/s" % measured[0], flush=True)
            found[name] += [measured] if measured else []
    print(f"\n{'medians':34} {'images/s':>9} {'ratio':>6} {'first step, s':>14} {'peak, MiB':>10}")
    for name, measured in found.items():
        if measured:
            rate, first, peak = (statistics.median(values) for values in zip(*measured))
            base = one if "1 thread" in name and "2 workers" not in name else two
            ratio = statistics.median(m[0] for m in found[base]) / rate
            print(f"{name:34} {rate:9.1f} {ratio:6.2f} {first:14.2f} {peak:10.0f}")
    best = {name: max(m[0] for m in found[name]) for name in (one, two)}
    print(f"\n2 workers to twice 1, best of {args.repeats}: {best[two] / best[one] / 2:.3f}")
    print("A ratio is this program's images per second to the peer's, on as many cores.")


if __name__ == "__main__":
    main()
