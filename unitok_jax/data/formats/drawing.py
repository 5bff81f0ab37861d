"""Textured shapes on a grey background, painted with NumPy: what `shapes.py` draws."""

import dataclasses
import io
import math

import numpy as np
from PIL import Image

SIDE = 72  # pixels; training crops are close to 64

COLOURS = {
    "red": (222, 40, 40),
    "green": (40, 165, 65),
    "blue": (40, 85, 235),
    "yellow": (248, 218, 45),
    "purple": (150, 55, 205),
    "pink": (255, 140, 195),
    "turquoise": (50, 205, 205),
    "brown": (140, 78, 30),
}
SECOND_TONE = (255, 255, 255)  # between stripes, in dots and in every other square of a checker
TEXTURES = ("plain", "striped", "dotted", "checkered")

_SUPERSAMPLING = 3


def _star(x, y):
    # The angle is folded into one of ten sectors, in which a five-pointed star is one half-plane.
    sector, inner = math.pi / 5, 0.45
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    tip_x, tip_y = 1 - inner * math.cos(sector), inner * math.sin(sector)
    return radius * (np.cos(angle) * tip_y + np.sin(angle) * tip_x) <= tip_y


def _heart(x, y):
    x, y = 1.35 * x, 0.12 - 1.35 * y
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


# Membership tests for arrays x (to the right) and y (down); every shape lies in the unit circle.
SHAPES = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.7,
    "triangle": lambda x, y: (math.sqrt(3) * np.abs(x) <= y + 1) & (y <= 0.5),
    "star": _star,
    "cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) <= 0.32) & (np.maximum(np.abs(x), np.abs(y)) <= 0.92)
    ),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.76) <= 0.24,
    "diamond": lambda x, y: np.abs(x) / 0.66 + np.abs(y) <= 1,
    "heart": _heart,
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """One object: its caption words, and its place in pixels."""

    colour: str
    shape: str
    texture: str
    size: str
    cell: tuple[int, int]  # row and column of the third of the image that contains its centre
    x: float
    y: float
    radius: float
    angle: float  # rotation of the shape in radians
    texture_angle: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Disjoint objects in reading order, on a grey background with a linear gradient."""

    shapes: tuple[Shape, ...]
    greys: tuple[tuple[float, ...], tuple[float, ...]]  # both ends of the gradient, RGB, 0 to 255
    direction: float  # radians, from the first to the second


def draw(scene: Scene) -> np.ndarray:
    """Draws a scene, uint8 (SIDE, SIDE, 3). Shapes keep 2 pixels from the border."""
    steps = np.linspace(-0.5, 0.5, SIDE)
    way = math.cos(scene.direction) * steps + math.sin(scene.direction) * steps[:, None]
    share = (0.5 + way / math.sqrt(2))[..., None]
    first, second = (np.array(grey) for grey in scene.greys)
    picture = first + share * (second - first)
    for shape in scene.shapes:
        _paint(picture, shape)
    return np.rint(picture).astype(np.uint8)


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a uint8 image (H, W, 3) as lossless PNG, at low compression for speed."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _paint(picture: np.ndarray, s: Shape) -> None:
    """Draws a shape that lies inside a float image, in place, antialiased."""
    reach = math.ceil(s.radius) + 1
    left, top = int(s.x) - reach, int(s.y) - reach
    size = 2 * reach + 1
    fine = (np.arange(size * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    x, y = (fine + left - s.x) / s.radius, ((fine + top - s.y) / s.radius)[:, None]
    inside = SHAPES[s.shape](*_turn(x, y, s.angle))
    second = inside & _texture(s.texture, *_turn(x, y, s.texture_angle))
    cover, tone = (_shrink(mask, size)[..., None] for mask in (inside, second))
    colour, other = np.array(COLOURS[s.colour]), np.array(SECOND_TONE)
    window = picture[top : top + size, left : left + size]
    window += cover * (colour - window) + tone * (other - colour)


def _texture(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the mask of the second tone. Coordinates are in radii of the shape."""
    if texture == "striped":
        return x % 0.55 < 0.22
    if texture == "dotted":
        return ((x + 0.27) % 0.54 - 0.27) ** 2 + ((y + 0.27) % 0.54 - 0.27) ** 2 < 0.15**2
    if texture == "checkered":
        return (np.floor(x / 0.4) + np.floor(y / 0.4)) % 2 == 1
    return np.zeros(x.shape, bool)


def _turn(x, y, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _shrink(mask: np.ndarray, size: int) -> np.ndarray:
    """Returns the covered part of every pixel, 0 to 1."""
    return mask.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean((1, 3))
