"""The sheet of a reconstruction: where its pictures lie, and what is written beside them."""

import numpy as np
import pytest
from PIL import ImageDraw

from unitok_jax.pictures import captioned
from unitok_jax.pictures.comparison import error_picture
from unitok_jax.pictures.sheet import GAP, load_font


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2, height, width, 3), np.uint8)


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn."""
    found, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, words, **options: (
            found.append(words), text(self, place, words, **options)
        ),
    )  # fmt: skip
    return found


def test_pixels_and_words(written):
    image, rebuilt = noise(0, 64, 64)
    sheet = captioned.draw([captioned.row("a/cat", 21.347, image, rebuilt)])
    assert written == ["original", "reconstruction", "error x 2", "a/cat", "21.35 dB"]
    pixels = np.asarray(sheet)
    top = pixels.shape[0] - GAP - 192
    error = error_picture(image[None], rebuilt[None])[0]
    for column, picture in enumerate((image, rebuilt, error)):
        left = GAP + column * (192 + 6)
        found = pixels[top : top + 192 : 3, left : left + 192 : 3]
        np.testing.assert_array_equal(found, picture)
    assert pixels.shape[1] == 2 * GAP + 3 * 192 + 2 * 6
    assert (pixels[:GAP] == 255).all() and (pixels[-GAP:] == 255).all()


def test_columns_are_of_one_length(written):
    rows = [captioned.row(str(i), np.inf, *noise(i, 32, 48)) for i in range(8)]
    sheet = captioned.draw(rows)
    assert sheet.width == GAP + 2 * (3 * 192 + 2 * 6 + GAP)
    assert written.count("original") == 2 and written.count("identical") == 8
    assert captioned.draw(rows[:4]).height == sheet.height


@pytest.mark.parametrize(
    "size, shown",
    [
        ((256, 256), (256, 256)),
        ((16, 32), (96, 192)),
        ((768, 1536), (192, 384)),
        ((4096, 16), (384, 2)),
        ((128, 64), (384, 192)),
        ((144, 64), (144, 64)),
    ],
)
def test_sizes(size, shown):
    row = captioned.row("x", 1.0, *noise(0, *size))
    assert [panel.size[::-1] for panel in row.panels] == [shown] * 3
    assert captioned.draw([row]).width >= 3 * 192


class TestNames:
    def test_that_cannot_be_printed(self):
        assert captioned.row("caf\udce9\n", 1.0, *noise(0, 16, 16)).name == r"caf\xe9\n"

    def test_keep_their_ends(self):
        font, name = load_font(), "first/" + "x" * 200 + "/last"
        short = captioned.shortened(name, 300, font)
        assert short.startswith("first/") and short.endswith("/last") and "..." in short
        assert 250 < font.getlength(short) <= 300
        assert captioned.shortened("short", 300, font) == "short"
        assert captioned.shortened(name, 1, font) == "..."
