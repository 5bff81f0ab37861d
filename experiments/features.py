"""Fixed small network, by whose features the experiments compare sets of pictures.

Untrained: four convolutions with seeded weights. Its features tell colours, edges and their
extent, and are the same on every machine without a download or a training that could favour one
side. Fréchet distances by them compare the runs of one experiment alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (3, 16, 32, 64, 64)  # channels; every layer halves the sides
KEPT = 2  # last layers whose means over the picture are features
BATCH = 64


@functools.cache
def weights() -> list[np.ndarray]:
    """Draws the kernels (3, 3, inputs, outputs), scaled to keep the size of activations."""
    rng = np.random.Generator(np.random.Philox(key=2026))
    return [
        rng.standard_normal((3, 3, a, b)).astype(np.float32) * (2 / (9 * a)) ** 0.5
        for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]


def features(pictures: np.ndarray) -> np.ndarray:
    """Computes float32 (N, 128) features of uint8 pictures (N, H, W, 3)."""
    program, kernels, found = _program(), weights(), []
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        padded = np.pad(batch, [(0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)])
        found.append(jax.device_get(program(kernels, padded))[: len(batch)])
    return np.concatenate(found)


@functools.cache
def _program():
    def run(kernels, pictures):
        x, means = pictures.astype(jnp.float32) / 127.5 - 1, []
        for kernel in kernels:
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)
            x = jax.nn.relu(x)
            means.append(x.mean((1, 2)))
        return jnp.concatenate(means[-KEPT:], axis=1)

    return jax.jit(run)
