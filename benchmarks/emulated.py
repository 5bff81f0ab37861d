"""Emulation of accelerators' float32 products on a CPU: to count changed codes, not for timing."""

import contextlib
import functools

import jax
from jax import lax


def _rounded(bits):
    return functools.partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=bits)


def _tensorfloat32(product, a, b):
    """Multiplies with factors rounded to 10 bits and float32 sums."""
    return product(_rounded(10)(a), _rounded(10)(b))


def _bfloat16_3x(product, a, b):
    """Multiplies factors as sums of two bfloat16, without the product of the two small ones."""
    round_, (high_a, high_b) = _rounded(7), map(_rounded(7), (a, b))
    low_a, low_b = round_(a - high_a), round_(b - high_b)
    return product(high_a, high_b) + (product(high_a, low_b) + product(low_a, high_b))


EMULATED = {"bfloat16_3x": _bfloat16_3x, "tensorfloat32": _tensorfloat32}


@contextlib.contextmanager
def products(name: str):
    """Emulates the products of a precision in all functions traced within the context.

    Emulated are matrix products and convolutions of float32, except those that request the highest
    precision. Depthwise convolutions on a CPU are neither, and stay float32.
    """
    primitives = lax.dot_general_p, lax.conv_general_dilated_p
    binds = [primitive.bind for primitive in primitives]
    for primitive, bind in zip(primitives, binds, strict=True):
        primitive.bind = functools.partial(_bind, bind, EMULATED[name])
    jax.clear_caches()  # drops functions traced outside
    try:
        yield
    finally:
        for primitive in primitives:
            del primitive.bind
        jax.clear_caches()


def _bind(bind, emulated, a, b, **params):
    asked = params["precision"]
    highest = lax.Precision.HIGHEST in (asked if isinstance(asked, tuple) else (asked,))
    if highest or not a.dtype == b.dtype == "float32":
        return bind(a, b, **params)
    params["precision"] = (lax.Precision.HIGHEST,) * 2

    def product(a, b):
        return bind(a, b, **params)

    return emulated(product, a, b)
