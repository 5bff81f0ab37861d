"""Image files that a command's `--data` names: one, a folder's, or the built-in photographs."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

from unitok_jax.data.formats.folders import IMAGE_SUFFIXES, FileSource, image_names, photo_source
from unitok_jax.data.images.transforms import decode_image, resize_center_crop
from unitok_jax.data.specs import split
from unitok_jax.system.paths import expand


class Inputs(Sequence):
    """Encoded image files by position: (name, bytes), read on access.

    Names may contain folders, and drop the suffix unless two files would share a name. `place` is
    the absolute path of the image or folder, or `photos`.
    """

    def __init__(self, data: str | os.PathLike):
        """Lists the images.

        Args:
            data: an image, a folder of images, `folder:PATH`, `labelled:PATH` or `photos`; a
                path may begin with `~`. Captions and classes are not read.

        Raises:
            FileNotFoundError: the path does not exist.
            ValueError: a folder without images, or a source of another kind.
            ImportError: `photos` without scikit-image.
        """
        data = os.fspath(data)
        source, path = split(data)
        if (source, path) == ("photos", ""):
            self.place, self._source = "photos", photo_source()
        elif source not in ("", "folder", "labelled") or not path:
            raise ValueError(
                f"--data={data}: this command reads image files: give an image, a folder, "
                "folder:PATH, labelled:PATH or photos"
            )
        else:
            self.place = os.path.abspath(expand(path))
            self._source = _files(data, expand(path))
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


def _files(data: str, path: Path) -> FileSource:
    if path.is_file():
        return FileSource(path.parent, {path.name: ()})
    if not path.is_dir():
        raise FileNotFoundError(f"--data={data} is no file, no folder and not 'photos'")
    names = dict.fromkeys(image_names(path), ())
    if not names:
        raise ValueError(f"--data={data} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return FileSource(path, names)


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
