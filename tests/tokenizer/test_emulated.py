"""Products as accelerators make them, on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import emulated


def tensorfloat32(x):
    """Rounded to the nearest of 10 bits, by integers."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~np.uint32(0x1FFF)).view(np.float32)


def bfloat16(x):
    return x.astype(jnp.bfloat16).astype(np.float32)


def three(a, b):
    high_a, high_b = bfloat16(a), bfloat16(b)
    low_a, low_b = bfloat16(a - high_a), bfloat16(b - high_b)
    a, b, high_b = (x.astype(np.float64) for x in (high_a, low_b, high_b))
    return a @ high_b + a @ b + low_a.astype(np.float64) @ high_b


EXPECTED = {
    "tensorfloat32": lambda a, b: tensorfloat32(a).astype(np.float64) @ tensorfloat32(b),
    "bfloat16_3x": three,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_matrix_products_and_convolutions(name):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 16)).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)

    def product(a, b):
        return a @ b

    def convolution(a, b):
        return lax.conv_general_dilated(
            *(a[None, None], b[None, None], (1, 1), "VALID"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0, 0]

    exact, expected = a.astype(np.float64) @ b, EXPECTED[name](a, b)
    assert 1e-6 < np.abs(exact - expected).max() < 1e-2
    for function in (product, convolution):
        with emulated.products(name):
            with jax.default_matmul_precision("high"):
                found = jax.jit(function)(a, b)
            with jax.default_matmul_precision("highest"):
                whole = jax.jit(function)(a, b)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(whole, exact, rtol=0, atol=2e-6)
        with jax.default_matmul_precision("high"):  # outside it is as before
            np.testing.assert_array_equal(jax.jit(function)(a, b), whole)
