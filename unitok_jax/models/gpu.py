"""What the NVIDIA GPU of this process can compute, for forms of operations that need one."""

import contextlib
import contextvars

import jax

AMPERE = (8, 0)  # bfloat16 and TF32 products

_for_any = contextvars.ContextVar("for_any", default=False)


def capability() -> tuple[int, int] | None:
    """Returns the compute capability of the GPUs that JAX computes on, of several kinds the least.

    None: it does not compute on NVIDIA's, or the program that is traced is `for_any_machine`.
    """
    if _for_any.get() or jax.default_backend() != "gpu":
        return None
    devices = jax.local_devices()
    if "cuda" not in devices[0].client.platform_version:
        return None
    return min(tuple(map(int, device.compute_capability.split("."))) for device in devices)


@contextlib.contextmanager
def for_any_machine():
    """Lets programs that are traced inside run on other machines, such as those of an export."""
    token = _for_any.set(True)
    try:
        yield
    finally:
        _for_any.reset(token)
