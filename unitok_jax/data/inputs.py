"""Images that a command's `--input` names: one file, a folder, or the built-in photographs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

from unitok_jax.data.formats.folders import IMAGE_SUFFIXES, FileSource, image_names, photo_source
from unitok_jax.data.images.transforms import decode_image, resize_center_crop


class Inputs(Sequence):
    """Encoded image files by position: (name, bytes), read on access.

    Names may contain folders, and drop the suffix unless two files would share a name.
    """

    def __init__(self, path: Path):
        """Lists the images of a path.

        Args:
            path: an image, a folder of images, or `photos`.

        Raises:
            FileNotFoundError: the path does not exist.
            ValueError: a folder without images.
        """
        if path.is_file():
            self._source = FileSource(path.parent, {path.name: ()})
        elif path.is_dir():
            names = dict.fromkeys(image_names(path), ())  # captions, if any, are ignored
            if not names:
                raise ValueError(f"--input={path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
            self._source = FileSource(path, names)
        elif str(path) == "photos":
            self._source = photo_source()
        else:
            raise FileNotFoundError(f"--input={path} is no file, no folder and not 'photos'")
        self.names = _names(self._source.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        return self.names[index], self._source[index]["image"]

    def image(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Decodes an image: uint8 (height, width, 3), resized and centre-cropped to `size`."""
        name, data = self[index]
        return resize_center_crop(decode_image(data, name), size)

    def batches(self, size: tuple[int, int], batch_size: int) -> Iterator[np.ndarray]:
        """Yields all images in order: uint8 (n, height, width, 3), n at most `batch_size`."""
        for start in range(0, len(self), batch_size):
            indices = range(start, min(start + batch_size, len(self)))
            yield np.stack([self.image(index, size) for index in indices])


def _names(files: list[str]) -> list[str]:
    """Returns unique names of files: without suffix unless another file has the same name.

    Case is ignored, as on some file systems.
    """
    stems = [str(PurePath(file).with_suffix("")) for file in files]
    count = Counter(stem.casefold() for stem in stems)
    count.update({file.casefold() for file in files})
    return [
        stem if count[stem.casefold()] == 1 else file
        for file, stem in zip(files, stems, strict=True)
    ]
