"""Pixels are the same floats on the host and on the device, whatever compiles them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.data.images import transforms
from unitok_jax.models.images import squared_error, to_float

pytestmark = pytest.mark.usefixtures("strict_shapes")

GREY = np.arange(256, dtype=np.uint8)
HOST = GREY.astype(np.float32) / np.float32(127.5) - np.float32(1)


def test_the_host_divides_and_subtracts():
    np.testing.assert_array_equal(transforms.to_float(GREY), HOST)
    np.testing.assert_array_equal(transforms.to_float(GREY), GREY.astype(np.float32) / 127.5 - 1)


# The last one gives the compiler something to fuse with.
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.jit(lambda x: 2 * f(x) / 2)])
def test_the_device_has_the_hosts_floats_to_the_last_bit(wrap):
    found = wrap(to_float)(jnp.asarray(GREY))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, HOST)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats_stay_as_they_are(dtype):
    images = jnp.linspace(-1, 1, 12).reshape(2, 2, 3).astype(dtype)
    assert to_float(images) is images


def test_squared_error_is_of_every_image():
    a, b = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
    np.testing.assert_allclose(squared_error(a, b.at[1].set(1)), [0.25, 1])
