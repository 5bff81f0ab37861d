"""Vocabulary of whole words, for a model that talks about drawn shapes."""

import json
import re

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from unitok_jax.data.formats.drawing import COLOURS, SHAPES, TEXTURES
from unitok_jax.data.formats.shapes import NUMBERS, SIZES
from unitok_jax.data.language_tokenizer import FILE, SETTINGS, LanguageTokenizer
from unitok_jax.multimodal.rows import INSTRUCTION, UNCONDITIONAL

SPECIAL = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>", "<unk>")  # ids 0, 1, ...

# Words of captions, questions, answers and edits beside the names of colours, forms, ....
_OTHERS = """
a and is are the there of all them one picture shapes
at in on to top bottom left right corner centre above below
what which where how many colour shape texture has or yes no
make turn into user assistant : , . ?
"""


def shape_tokenizer() -> LanguageTokenizer:
    """Builds the tokenizer of the words that captions, questions and edits of shapes are made of.

    Case does not matter; an unknown word is `<unk>`.
    """
    plural = [name + ("es" if name.endswith("s") else "s") for name in SHAPES]
    names = [*COLOURS, *SHAPES, *plural, *TEXTURES, *SIZES, *NUMBERS]
    asked = re.findall(r"\w+|[^\w\s]", f"{INSTRUCTION} {UNCONDITIONAL}".lower())
    words = dict.fromkeys([*SPECIAL, *names, *_OTHERS.split(), *asked])
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    settings = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    files = {FILE: tokenizer.to_str().encode(), SETTINGS: json.dumps(settings).encode()}
    return LanguageTokenizer(files, name="words of shapes")
