"""How close reconstructions come to the images."""

import numpy as np


def psnr(squared_error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, of mean squared errors of images in [-1, 1].

    The peak is the range of an image, 2. Equal images give infinity.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4.0 / np.asarray(squared_error, np.float64))


class Reconstruction:
    """PSNR per image and its mean, over batches with padding."""

    def __init__(self):
        self._errors = []

    def update(self, squared_error: np.ndarray, mask: np.ndarray) -> None:
        """squared_error, mask: (B,); rows with mask False count nothing."""
        self._errors.append(np.asarray(squared_error)[np.asarray(mask)])

    def result(self) -> dict[str, float]:
        """`psnr` in dB, the mean over images, and `l2`, the mean squared error."""
        errors = np.concatenate(self._errors)
        return {"psnr": float(psnr(errors).mean()), "l2": float(errors.mean(dtype=np.float64))}
