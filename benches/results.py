#!/usr/bin/env python3
"""Trains recipes with several seeds, judges the samples, and prints the tables of docs/results.md.

    python3 benches/results.py --out target/results [--seeds 22,23,24] [tutorial mnist mnist-quick]

A recipe is a file in recipes/; `tutorial` is none, the defaults. What is there already is not computed again.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "target" / "release"
STEPS_PER_EPOCH = 234
EPOCHS = [1, 5, 10, 15, 20]


def run(program, *args):
    command = [PROGRAMS / program, *map(str, args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(recipe, seed, folder):
    """Trains to the end, unless that is done, and keeps the checkpoint of each epoch."""
    config = [] if recipe == "tutorial" else ["--config", ROOT / "recipes" / f"{recipe}.toml"]
    outputs = ["--grid-every", 10**6, "--checkpoint-every", STEPS_PER_EPOCH, "--keep-checkpoints", 25, "-q"]
    run("dcgan-coord", "--local", "--workers", 4, "--listen", "127.0.0.1:0", "--out", folder, "--seed", seed, *config, *outputs)


def average(folder):
    """The Frechet distance of the average's samples by epoch, as the training has judged it."""
    rows = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
    return {row["step"] // STEPS_PER_EPOCH: row["frechet_distance"] for row in rows}


def raw(folder, epochs):
    """The Frechet distance of the raw weights' samples by epoch."""
    distances = {}
    for epoch in epochs:
        kept = folder / f"raw-{epoch}.txt"
        if not kept.exists():
            step = epoch * STEPS_PER_EPOCH
            kept.write_text(run("dcgan-sampler", "eval", folder, "--checkpoint", step, "--weights", "raw"))
        line = next(line for line in kept.read_text().splitlines() if line.startswith("frechet_distance"))
        distances[epoch] = float(line.split()[1])
    return distances


def table(title, by_seed):
    """Prints the mean and the deviation over seeds, and each seed's value."""
    seeds = list(by_seed)
    print(f"\n{title}\n\n| epoch | mean | deviation | " + " | ".join(f"seed {seed}" for seed in seeds) + " |")
    print("|---" * (3 + len(seeds)) + "|")
    for epoch in sorted(set.intersection(*(set(values) for values in by_seed.values()))):
        values = [by_seed[seed][epoch] for seed in seeds]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"| {epoch} | **{statistics.mean(values):.2f}** | {deviation:.2f} | " + " | ".join(f"{it:.2f}" for it in values) + " |")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("recipes", nargs="*", default=["tutorial", "mnist", "mnist-quick"])
    args.add_argument("--out", type=Path, default=ROOT / "target" / "results")
    args.add_argument("--seeds", default="22,23,24")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for recipe in args.recipes:
        averages, raws = {}, {}
        for seed in args.seeds.split(","):
            folder = args.out / f"{recipe}-{seed}"
            train(recipe, seed, folder)
            averages[seed] = average(folder)
            raws[seed] = raw(folder, [epoch for epoch in EPOCHS if epoch <= max(averages[seed])])
            samples = args.out / f"{recipe}-{seed}-images-idx3-ubyte.gz"
            if not samples.exists():
                run("dcgan-sampler", "export", folder, "--count", 10_000, "--out", samples)
        table(f"{recipe}, moving average", averages)
        table(f"{recipe}, raw weights", raws)


if __name__ == "__main__":
    main()
