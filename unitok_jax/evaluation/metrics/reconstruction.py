"""Distances of reconstructions from their images."""

import numpy as np


def psnr(squared_error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, of mean squared errors of images in [-1, 1].

    The peak is the range of an image, 2. Equal images give infinity.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4.0 / np.asarray(squared_error, np.float64))


class Reconstruction:
    """PSNR and other measures, per image and as means over batches with padding."""

    def __init__(self):
        self._batches = {}

    def update(self, mask: np.ndarray, **measures: np.ndarray) -> None:
        """Adds a batch.

        Args:
          mask: (B,) bool; rows with mask False count nothing.
          **measures: (B,) each: `squared_error` of images in [-1, 1] always, and any others, the
            same in every batch.

        Raises:
          ValueError: no `squared_error`, other measures than in the batches before, or one that is
            not (B,).
        """
        mask = np.asarray(mask)
        if "squared_error" not in measures:
            raise ValueError(f"squared_error is missing among the measures {sorted(measures)}")
        if self._batches and self._batches.keys() != measures.keys():
            raise ValueError(
                f"a batch has the measures {sorted(measures)}, those before it "
                f"{sorted(self._batches)}"
            )
        for name, values in measures.items():
            if np.shape(values) != mask.shape:
                raise ValueError(f"{name} is {np.shape(values)} and mask {mask.shape}")
        for name, values in measures.items():
            self._batches.setdefault(name, []).append(np.asarray(values, np.float64)[mask])

    def per_image(self) -> dict[str, np.ndarray]:
        """The measures of all images in their order, (N,) float64 each.

        `psnr` in dB, infinite where the pictures are identical, `l2`, the squared error, and the
        others by the names they were given.

        Raises:
          ValueError: there was no batch.
        """
        if not self._batches:
            raise ValueError("there are no images to measure")
        values = {name: np.concatenate(parts) for name, parts in self._batches.items()}
        errors = values.pop("squared_error")
        return {"psnr": psnr(errors), "l2": errors} | values

    def result(self) -> dict[str, float]:
        """Means over images of what `per_image` gives.

        `psnr` is the mean of the images' dB, as in the field, not the dB of the mean error. One
        identical picture makes it infinite: `per_image` tells which.
        """
        return {name: float(values.mean()) for name, values in self.per_image().items()}
