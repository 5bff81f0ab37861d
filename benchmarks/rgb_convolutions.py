"""Formulations of convolutions from or to three channels: the first and last of a network.

Tensor cores take channels by eights. Kernels are 3x3 with padding (1, 1), or as wide as their
stride, without padding: x [B, H, W, I], w [k, k, I, O] -> [B, H/stride, W/stride, O].
"""

NHWC = ("NHWC", "HWIO", "NHWC")


def plain(x, w, stride):
    """Computes XLA's convolution."""
    from jax import lax

    edge = 0 if len(w) == stride else 1
    return lax.conv_general_dilated(
        x, w, (stride, stride), ((edge, edge), (edge, edge)), dimension_numbers=NHWC
    )


def padded(x, w, stride):
    """Adds channels of zeros, of inputs and outputs, up to a multiple of eight."""
    import jax.numpy as jnp

    *_, inputs, outputs = w.shape
    more, further = -inputs % 8, -outputs % 8
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    w = jnp.pad(w, ((0, 0), (0, 0), (0, more), (0, further)))
    return plain(x, w, stride)[..., :outputs]


def product(x, w, stride):
    """Computes a product of matrices: of patches of three channels, or summed over their taps."""
    if w.shape[2] < w.shape[3]:
        return _patches(x, len(w), stride) @ w.reshape(-1, w.shape[3])
    return _summed_taps()(x, w)


def _patches(x, size, stride):
    """Gathers the k x k pixels under each output, [B, H, W, I] -> [B, H', W', k k I]."""
    import jax.numpy as jnp

    batch, height, width, channels = x.shape
    height, width = height // stride, width // stride
    if size == stride:
        x = x.reshape(batch, height, size, width, size, channels).swapaxes(2, 3)
        return x.reshape(batch, height, width, -1)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    shifted = (
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    )
    return jnp.concatenate([*shifted], axis=-1)


def _summed_taps():
    """Builds a 3x3 convolution to few channels, whose gradients are of patches of its cotangent."""
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def convolve(x, w):
        _, height, width, _ = x.shape
        taps = jnp.einsum("bhwi,klio->bhwklo", x, w, preferred_element_type=jnp.float32)
        taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
        return sum(
            taps[:, i : i + height, j : j + width, i, j] for i in range(3) for j in range(3)
        ).astype(x.dtype)

    def backward(saved, gradient):
        x, w = saved
        patches = _patches(gradient, 3, 1)  # a pixel's output through a tap is the mirrored one's
        mirrored = w[::-1, ::-1].swapaxes(2, 3).reshape(-1, w.shape[2])
        to_w = jnp.einsum("bhwi,bhwp->pi", x, patches).reshape(3, 3, w.shape[3], w.shape[2])
        return patches @ mirrored, to_w[::-1, ::-1].swapaxes(2, 3)

    convolve.defvjp(lambda x, w: (convolve(x, w), (x, w)), backward)
    return convolve


FORMS = {"plain": plain, "padded to 8": padded, "product": product}
