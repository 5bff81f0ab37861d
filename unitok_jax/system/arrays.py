"""Arrays as users of the Python interface pass them."""

import numpy as np


def as_numpy(value) -> np.ndarray:
    """Converts an array of NumPy, JAX or PyTorch, or lists of numbers, to an array of NumPy.

    Args:
      value: of any shape and dtype. A tensor of PyTorch may lie on another device or require
        gradients; its bfloat16, which NumPy lacks, becomes float32.

    Returns:
      The values; shared with `value` where that is possible.
    """
    if hasattr(value, "resolve_conj"):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    return np.asarray(value)
