"""Example images for the page."""

from pathlib import Path

from unitok_jax.data.formats.photos import photo_folder
from unitok_jax.data.formats.shapes import shape_source

DRAWINGS = (0, 1, 2, 3)  # pictures of the `shapes` data
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # inside scikit-image


def write(folder: str | Path) -> list[Path]:
    """Writes example images into a folder, made if missing, and returns their paths: drawings of
    this package, and photographs if scikit-image is installed. Downloads nothing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {f"shapes{i}.png": shape_source()[i]["image"] for i in DRAWINGS}
    try:
        pictures |= {name: (photo_folder() / name).read_bytes() for name in PHOTOS}
    except ImportError:  # the page works without them
        pass
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in pictures]
