"""How close reconstructions come to the images."""

import numpy as np


def psnr(squared_error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, of mean squared errors of images in [-1, 1].

    The peak is the range of an image, 2. Equal images give infinity.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4.0 / np.asarray(squared_error, np.float64))


class Reconstruction:
    """PSNR, and LPIPS where there is one, per image and as means over batches with padding."""

    def __init__(self):
        self._errors, self._distances = [], []

    def update(
        self, squared_error: np.ndarray, mask: np.ndarray, lpips: np.ndarray | None = None
    ) -> None:
        """squared_error, mask, lpips: (B,); rows with mask False count nothing."""
        mask = np.asarray(mask)
        self._errors.append(np.asarray(squared_error)[mask])
        if lpips is not None:
            self._distances.append(np.asarray(lpips)[mask])

    def result(self) -> dict[str, float]:
        """Means over images: `psnr` in dB, `l2` (squared error), and `lpips` if it was given."""
        errors = np.concatenate(self._errors)
        out = {"psnr": float(psnr(errors).mean()), "l2": float(errors.mean(dtype=np.float64))}
        if self._distances:
            out["lpips"] = float(np.concatenate(self._distances).mean(dtype=np.float64))
        return out
