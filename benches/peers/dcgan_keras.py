#!/usr/bin/env python3
"""Trains the same model in Keras as the tutorial does: three calls of `train_on_batch` an iteration, on all cores.

    python dcgan_keras.py [--batch 256] [--steps 5]

Prints one line, as dcgan_torch.py does.
"""

import argparse
import os
import resource
import time

START = time.time()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers


def bn():
    return layers.BatchNormalization(momentum=0.8)


def discriminator():
    stages = [layers.Input((28, 28, 1))]
    for filters in (32, 64, 128):
        stages += [layers.Conv2D(filters, 3, strides=2, padding="same"), bn(), layers.LeakyReLU(negative_slope=0.2)]
    stages += [layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")]
    return keras.Sequential(stages)


def generator():
    stages = [layers.Input((100,)), layers.Dense(1568, activation="relu"), layers.Reshape((7, 7, 32))]
    for filters, upsample in ((64, True), (128, True), (64, False)):
        stages += [layers.Conv2D(filters, 3, padding="same"), bn(), layers.Activation("relu")]
        stages += [layers.UpSampling2D()] if upsample else []
    stages += [layers.Conv2D(1, 3, padding="same", activation="tanh")]
    return keras.Sequential(stages)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--batch", type=int, default=256)
    args.add_argument("--steps", type=int, default=5)
    args.add_argument("--repeats", type=int, default=5)
    args = args.parse_args()
    adam = lambda: keras.optimizers.Adam(2e-4, beta_1=0.5)
    g, d = generator(), discriminator()
    d.compile(loss="binary_crossentropy", optimizer=adam(), metrics=["accuracy"])
    # The combined model of the tutorial: the discriminator inside is frozen.
    d.trainable = False
    combined = keras.Sequential([g, d])
    combined.compile(loss="binary_crossentropy", optimizer=adam(), metrics=["accuracy"])
    d.trainable = True
    real = np.random.uniform(-1, 1, (args.batch, 28, 28, 1)).astype("float32")
    ones, zeros = np.ones((args.batch, 1)), np.zeros((args.batch, 1))
    rates, first = [], None
    for repeat in range(args.repeats + 1):
        start = time.perf_counter()
        for _ in range(args.steps):
            z = np.random.normal(size=(args.batch, 100)).astype("float32")
            fake = g.predict_on_batch(z)
            d.train_on_batch(real, ones)
            d.train_on_batch(fake, zeros)
            combined.train_on_batch(z, ones)
            first = first or time.time() - START
        rates.append(args.batch * args.steps / (time.perf_counter() - start))
    rates = sorted(rates[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rates[len(rates) // 2]:.1f} images/s (best {rates[-1]:.1f}), first step after {first:.2f} s, peak {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
