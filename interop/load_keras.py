#!/usr/bin/env python3
"""Loads the networks of a checkpoint into the layers of the Keras tutorial, and draws images with the generator.

    python3 interop/load_keras.py runs/dcgan/checkpoints/step-00004680/state.safetensors \
        --latents latents.npy --out digits.npy --save generator.keras

Needs keras with tensorflow, safetensors and numpy.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from safetensors.numpy import load_file


def generator():
    return keras.Sequential([
        layers.Input((100,)),
        layers.Dense(7 * 7 * 32, activation="relu", name="dense"),
        layers.Reshape((7, 7, 32)),
        layers.Conv2D(64, 3, padding="same", name="conv1"),
        layers.BatchNormalization(momentum=0.8, name="bn1"),
        layers.Activation("relu"),
        layers.UpSampling2D(),
        layers.Conv2D(128, 3, padding="same", name="conv2"),
        layers.BatchNormalization(momentum=0.8, name="bn2"),
        layers.Activation("relu"),
        layers.UpSampling2D(),
        layers.Conv2D(64, 3, padding="same", name="conv3"),
        layers.BatchNormalization(momentum=0.8, name="bn3"),
        layers.Activation("relu"),
        layers.Conv2D(1, 3, padding="same", activation="tanh", name="conv4"),
    ])


def discriminator():
    """Ends with logits; the tutorial's last layer adds activation="sigmoid"."""
    stages = [layers.Input((28, 28, 1))]
    for number, filters in [(1, 32), (2, 64), (3, 128)]:
        stages += [
            layers.Conv2D(filters, 3, strides=2, padding="same", name=f"conv{number}"),
            layers.BatchNormalization(momentum=0.8, name=f"bn{number}"),
            layers.LeakyReLU(negative_slope=0.2),
        ]
    return keras.Sequential([*stages, layers.GlobalAveragePooling2D(), layers.Dense(1, name="dense")])


def set_weights(network, tensors, prefix):
    """Gives each layer its tensors, in Keras's layouts."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            parts = ["weight", "bias", "running_mean", "running_var"]
            layer.set_weights([tensors[f"{prefix}.{layer.name}.{part}"] for part in parts])
        elif isinstance(layer, layers.Conv2D):
            # [outputs, inputs, rows, columns] to [rows, columns, inputs, outputs].
            weight = tensors[f"{prefix}.{layer.name}.weight"].transpose(2, 3, 1, 0)
            layer.set_weights([weight, tensors[f"{prefix}.{layer.name}.bias"]])
        elif isinstance(layer, layers.Dense):
            weight, bias = tensors[f"{prefix}.{layer.name}.weight"], tensors[f"{prefix}.{layer.name}.bias"]
            if len(bias) == 7 * 7 * 32:
                # The outputs are the pixels of 32 channels: channels come first here, and last in Keras.
                order = np.arange(len(bias)).reshape(32, 7, 7).transpose(1, 2, 0).ravel()
                weight, bias = weight[order], bias[order]
            layer.set_weights([weight.T, bias])
    return network


def load(path, weights=None):
    """Loads the generator and the discriminator.

    The generator's weights are their moving average ("ema"), as they were trained ("raw"), or the average if there is
    one.
    """
    tensors = load_file(path)
    # With spectral norm, the discriminator computes with weights that are divided by their norm.
    divided = {name: tensor for name, tensor in tensors.items() if name.startswith("spectral_norm.discriminator.")}
    tensors |= {name.removeprefix("spectral_norm."): tensor for name, tensor in divided.items()}
    has_ema = "ema.generator.dense.weight" in tensors
    prefix = {"ema": "ema.", "raw": ""}.get(weights, "ema." if has_ema else "")
    return (
        set_weights(generator(), tensors, f"{prefix}generator"),
        set_weights(discriminator(), tensors, "discriminator"),
    )


def main():
    args = argparse.ArgumentParser()
    args.add_argument("state", help="state.safetensors of a checkpoint")
    args.add_argument("--weights", choices=["ema", "raw"], help="of the generator [default: ema, if there is one]")
    args.add_argument("--latents", help="NumPy array [N, 100], as dcgan-sampler latents writes it")
    args.add_argument("--out", help="where to write the images, as a NumPy array [N, 28, 28]")
    args.add_argument("--save", help="where to write the generator as a Keras file")
    args = args.parse_args()
    network, _ = load(args.state, args.weights)
    if args.out:
        latents = np.load(args.latents) if args.latents else np.random.standard_normal((100, 100)).astype("float32")
        np.save(args.out, network.predict(latents, verbose=0)[..., 0])
    if args.save:
        network.save(args.save)


if __name__ == "__main__":
    main()
