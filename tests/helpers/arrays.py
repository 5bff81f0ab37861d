"""Comparisons of trees of arrays on the host: JAX would compile a program for every shape."""

import jax
import numpy as np


def norm(tree) -> float:
    """Computes the Euclidean norm of all values of a tree together."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return sum(np.sum(leaf**2) for leaf in leaves) ** 0.5


def error(found, expected) -> float:
    """Computes the norm of the difference of two trees over the norm of the expected one."""
    found, expected = jax.device_get((found, expected))
    return norm(jax.tree.map(np.subtract, found, expected)) / norm(expected)
