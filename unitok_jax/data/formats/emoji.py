"""Emoji of a colour font, with their names as captions.

The pictures come from the font of the system, the names from the package `emoji`, which carries
Unicode's CLDR names. Combinations of known words are held out, as a skin tone of a profession: no
training picture shows one, and the held-out split shows only those.
"""

import functools
import importlib.util
import os
import re
import zlib
from typing import Any, NamedTuple

import numpy as np

from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.formats.drawing import encode_png
from unitok_jax.data.formats.emoji_font import ColourFont, find_font
from unitok_jax.data.health import SampleError
from unitok_jax.system.extras import how_to_install
from unitok_jax.system.paths import expand, printable

SPLITS = ("train", "held_out", "all")
WHITE = (255, 255, 255)

# Held out beside the skin tones. Every word is in names of training pictures too.
HELD_OUT = (
    # Animal and face: of a cow there is a whole one, and of other animals the face.
    "cow face",
    "rabbit face",
    "tiger face",
    # Cat and expression: there are other cats, and yellow faces of these expressions.
    "cat with tears of joy",
    "crying cat",
    "smiling cat with heart-eyes",
    "weary cat",
    # Colour and form.
    "green heart",
    "purple heart",
    "blue circle",
    "orange circle",
    "brown square",
    "red square",
    # Hour, and whether it is a half hour.
    "five o’clock",
    "seven o’clock",
    "ten-thirty",
    "three-thirty",
)

_TONES = "🏻🏼🏽🏾🏿"
_TONE = r"(?:(?:medium-)?(?:light|dark)|medium) skin tone"
_GENDER = re.compile(r"^(?:woman|man|person) ")
# Begins what CLDR puts behind a colon or comma, for which the package has a space.
_QUALITY = re.compile(rf" (?={_TONE}|(?:red|curly|white|blond) hair$|beard$|bald$)")
_BACKGROUND = re.compile(r"background=(\d+)")


class Place(NamedTuple):
    """The parts of `data.path`."""

    font: str  # file; '': the system's
    split: str  # one of SPLITS
    background: int | None  # seed of coloured backgrounds; None: white


class EmojiSource:
    """Square pictures of one split, drawn at their first use and kept. Each is a class of its own.

    Args:
        font: draws them.
        sequences: the code points of each picture.
        captions: the captions of each picture; the first one is the name of its class.
        background: as in `Place`.
    """

    class_templates = ("{}",)  # the captions are bare names too; a sentence would be a new thing

    def __init__(
        self,
        font: ColourFont,
        sequences: list[str],
        captions: list[tuple[str, ...]],
        background: int | None = None,
    ):
        self.names = [_file_name(sequence) for sequence in sequences]
        self.class_names = tuple(texts[0] for texts in captions)
        self._font, self._background = font, background
        self._sequences, self._captions = sequences, captions
        self._images = Cache(len(sequences))  # 25 MB for all of Noto's

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns {'name': str, 'image': PNG, 'captions': tuple[str, ...]}.

        Raises:
            SampleError: the font's picture cannot be read.
        """
        image = self._images.get(index, lambda: self._draw(index))
        return {"name": self.names[index], "image": image, "captions": self._captions[index]}

    def label(self, index: int) -> int:
        """Returns the position of picture `index`'s class in `class_names`: `index` itself."""
        return index

    def _draw(self, index: int) -> bytes:
        sequence = self._sequences[index]
        try:
            return encode_png(self._font.draw(sequence, self._colour(sequence)))
        except OSError as error:
            name = f"{self.names[index]} of {printable(self._font.path)}"
            raise SampleError(f"{name}: {error}", "damaged") from error

    def _colour(self, sequence: str) -> tuple[int, int, int]:
        """Returns white, or a colour that a seed and the code points decide: one in all splits."""
        if self._background is None:
            return WHITE
        key = [self._background, zlib.crc32(sequence.encode())]
        shares = np.random.Generator(np.random.Philox(key=key)).random(3)
        return tuple(int(96 + 160 * share) for share in shares)


def emoji_source(path: str = "", captions: str = "") -> EmojiSource:
    """Opens the emoji that a font has as one picture each.

    Args:
        path: the font, the split and the seed of the backgrounds, as `place` reads them.
        captions: languages of the package `emoji`, separated by commas; classes are named in the
            first. Empty: English.

    Raises:
        ValueError: another path, an unknown language, or a file that is no colour bitmap font.
        FileNotFoundError: no font.
        ImportError: the package `emoji` is not installed, or Pillow cannot join sequences.
    """
    if importlib.util.find_spec("emoji") is None:
        raise ImportError(
            "data.source=emoji takes its captions from the package emoji, which is not installed: "
            f"{how_to_install('emoji')}"
        )
    font_path, split, background = place(path)
    languages = _languages(captions)
    file = str(expand(font_path) if font_path else find_font())
    font = ColourFont(file)
    sequences = [
        sequence
        for sequence in _drawable(file, os.stat(file).st_mtime_ns)
        if split == "all" or is_held_out(sequence) == (split == "held_out")
    ]
    if not sequences:
        raise ValueError(f"data.path={printable(file)}: the font has no emoji of split {split}")
    texts = [_captions(sequence, languages) for sequence in sequences]
    return EmojiSource(font, sequences, texts, background)


def place(path: str) -> Place:
    """Reads `data.path`, [FONT][@SPLIT][@background=SEED]; without a font, no @ is needed.

    Raises:
        ValueError: two splits, two seeds, or a seed of 64 bits.
    """
    parts = path.split("@")
    splits, seeds = [], []
    while parts:
        seed = _BACKGROUND.fullmatch(parts[-1])
        if seed:
            seeds.append(int(seed[1]))
        elif parts[-1] in SPLITS:
            splits.append(parts[-1])
        elif parts[-1]:
            break
        parts.pop()
    if len(splits) > 1 or len(seeds) > 1 or max(seeds, default=0) >= 2**63:
        raise ValueError(
            f"data.path={printable(path)} is not [FONT][@SPLIT][@background=SEED] with one of "
            f"{', '.join(SPLITS)} and a seed below 2**63"
        )
    return Place("@".join(parts), *(splits or ["train"]), *(seeds or [None]))


def english(sequence: str) -> str:
    """Returns the CLDR name, as 'woman firefighter: medium skin tone' or 'flag: Germany'."""
    name = _words(_entry(sequence)["en"])
    if _is_flag(sequence):
        return f"flag: {name}"
    thing, *qualities = _QUALITY.split(name)
    return f"{thing}: {', '.join(qualities)}" if qualities else name


def is_held_out(sequence: str) -> bool:
    """Tells if no training picture shows this combination, by its English name alone.

    Held out are one skin tone of five for each profession, person and gesture, the same one for
    woman, man and person, and the names in `HELD_OUT`.
    """
    name = _words(_entry(sequence)["en"])
    tones = [_TONES.index(character) for character in sequence if character in _TONES]
    if len(tones) != 1:
        return name in HELD_OUT
    role = _GENDER.sub("", re.sub(f" {_TONE}", "", name))
    return zlib.crc32(role.encode()) % len(_TONES) == tones[0]


@functools.lru_cache(maxsize=4)
def _drawable(font: str, changed: int) -> list[str]:
    """Returns the sequences that a font has; the time of its last change is part of the key."""
    import emoji

    whole = emoji.STATUS["fully_qualified"]
    sequences = [key for key, entry in emoji.EMOJI_DATA.items() if entry["status"] == whole]
    # Mixes the groups, so that the first pictures of a split are a fair sample of it.
    sequences.sort(key=lambda sequence: (zlib.crc32(sequence.encode()), sequence))
    return ColourFont(font).having(sequences)


def _languages(captions: str) -> list[str]:
    import emoji

    languages = [language.strip() for language in (captions or "en").split(",")]
    unknown = [language for language in languages if language not in emoji.LANGUAGES]
    if unknown:
        raise ValueError(
            f"data.captions={captions}: for data.source=emoji these are languages, as en or en,de; "
            f"{unknown[0]!r} is not one of {', '.join(emoji.LANGUAGES)}"
        )
    emoji.config.load_language(languages)
    return languages


def _captions(sequence: str, languages: list[str]) -> tuple[str, ...]:
    """Returns the different names of a picture; English has aliases too."""
    texts = []
    for language in languages:
        if language == "en":
            texts += [english(sequence), *_aliases(sequence)]
        else:
            texts.append(_words(_entry(sequence)[language]))
    different: dict[str, str] = {}
    for text in texts:
        different.setdefault(text.casefold().replace("-", " "), text)
    return tuple(different.values())


def _aliases(sequence: str) -> list[str]:
    """Returns the aliases that are words: not codes such as 'de', 'u7121' and '+1'."""
    aliases = [_words(alias) for alias in _entry(sequence).get("alias", ())]
    if _is_flag(sequence):
        return [alias for alias in aliases if alias.startswith("flag ")]
    return [alias for alias in aliases if re.search(r"[^\W\d_]{3}", alias)]


def _entry(sequence: str) -> dict[str, Any]:
    import emoji

    return emoji.EMOJI_DATA[sequence]


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ")


def _is_flag(sequence: str) -> bool:
    return "🇦" <= sequence[0] <= "🇿" or sequence.endswith("\U000e007f")


def _file_name(sequence: str) -> str:
    return f"emoji/{'-'.join(f'{ord(character):x}' for character in sequence)}.png"
