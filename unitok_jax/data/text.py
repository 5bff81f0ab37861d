"""CLIP's byte-pair tokenizer: captions to token ids."""

import functools
import gzip
import html
import os
from collections.abc import Sequence
from importlib import resources

import ftfy
import numpy as np
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as BytePairTokenizer

PADDING = 0
START_OF_TEXT = 49406
END_OF_TEXT = 49407
MAX_CHARACTERS = 100_000  # characters read of a caption; a megabyte would take seconds

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes, in Latin-1


def clean(text: str) -> str:
    """Repairs mojibake, resolves HTML entities, folds white space, and lowers the case.

    Entities are resolved twice because scraped captions are often escaped twice.
    """
    # Plain ASCII needs no repair; ftfy takes as long to find that out as for the rest.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class TextTokenizer:
    """Turns captions into CLIP token ids. Cheap to construct, safe to pickle and to share.

    Args:
        context_length: tokens per caption, start and end included; at least 2.
    """

    def __init__(self, context_length: int = 77):
        if context_length < 2:
            raise ValueError(
                f"data.context_length={context_length} leaves no room for the start and end "
                "tokens; it must be at least 2 (CLIP uses 77)"
            )
        self.context_length = context_length
        _byte_pairs()  # built once here, not in several decode threads at the same time

    def __call__(self, texts: Sequence[str] | str) -> np.ndarray:
        """Returns token ids, int32 (n, context_length): start, caption, end, zeros; a str: n = 1.

        A long caption loses its last tokens, never the end token, and is read no further than
        `MAX_CHARACTERS`. A caption that spells out a special token, such as "<end_of_text>", is
        text like any other.

        Raises:
            TypeError: an element is not a string.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = np.full((len(texts), self.context_length), PADDING, np.int32)
        for row, tokens in zip(ids, _encode(texts), strict=True):
            tokens = tokens[: self.context_length - 2]
            row[: len(tokens) + 2] = [START_OF_TEXT, *tokens, END_OF_TEXT]
        return ids

    def length(self, text: str) -> int:
        """Counts a caption's tokens, start and end included; above `context_length`: truncated.

        Only the first `MAX_CHARACTERS` characters are counted.

        Raises:
            TypeError: not a string.
        """
        return len(_encode([text])[0]) + 2

    def decode(self, ids: Sequence[Sequence[int]] | np.ndarray) -> list[str]:
        """Decodes ids to captions: `clean(text)`, but with a space after every word.

        A word is a run of letters, one digit, a run of other signs, or an ending as 's. Without
        spaces, therefore, decoded ids are the cleaned text, or its beginning if it was truncated.
        A character that was cut in two becomes U+FFFD.

        Args:
            ids: as the call returns them: (n, L) or one caption (L,): start, caption, end, and
                then anything; zeros alone decode to ''.

        Raises:
            ValueError: ids outside 0 .. 49407, or not between one start and an end.
        """
        ids = np.asarray(ids)
        if not np.issubdtype(ids.dtype, np.integer) or ids.ndim not in (1, 2):
            raise ValueError(f"token ids are integers (n, L) or (L,), got {ids.dtype} {ids.shape}")
        wrong = np.unique(ids[(ids < 0) | (ids > END_OF_TEXT)])
        if wrong.size:
            raise ValueError(
                f"{', '.join(map(str, wrong[:5]))} are not token ids (0 to {END_OF_TEXT})"
            )
        return [_decode(row) for row in np.atleast_2d(ids).tolist()]


def _encode(texts: Sequence[str]) -> list[list[int]]:
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"captions must be str, got {type(text).__name__}: {text!r:.80}")
    cleaned = [clean(text[:MAX_CHARACTERS]) for text in texts]
    return [encoding.ids for encoding in _byte_pairs().encode_batch_fast(cleaned)]


def _decode(row: list[int]) -> str:
    if not any(row):
        return ""
    if row[0] != START_OF_TEXT or row.count(START_OF_TEXT) != 1 or END_OF_TEXT not in row:
        raise ValueError(
            f"token ids {row[:8]}... are not a caption between one {START_OF_TEXT} and "
            f"{END_OF_TEXT}"
        )
    spelled = bytearray()
    for token in map(_byte_pairs().id_to_token, row[1 : row.index(END_OF_TEXT)]):
        spelled += bytes(_symbol_bytes()[symbol] for symbol in token.removesuffix("</w>"))
        spelled += b" " if token.endswith("</w>") else b""
    return spelled.decode(errors="replace").rstrip(" ")


@functools.lru_cache(maxsize=1)
def _byte_pairs() -> BytePairTokenizer:
    """Builds the BPE over CLIP's vocabulary, in the order: bytes, bytes ending a word, merges."""
    # The pipeline's own threads are the parallel ones; the library's would wake for every chunk.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    packed = resources.files(__package__).joinpath("clip_merges.txt.gz").read_bytes()
    merges = [tuple(line.split(" ")) for line in gzip.decompress(packed).decode().splitlines()]
    symbols = _byte_symbols()
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
    vocabulary += [left + right for left, right in merges]
    tokenizer = BytePairTokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(vocabulary)},
            merges=merges,
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_symbols() -> list[str]:
    """Returns a visible character per byte: printing bytes as themselves, the others from U+0100.

    The merge table is written in these characters, and their order is that of the token ids.
    """
    others = 256 - len(_PRINTABLE)
    return [chr(byte) for byte in _PRINTABLE] + [chr(0x100 + index) for index in range(others)]


@functools.lru_cache(maxsize=1)
def _symbol_bytes() -> dict[str, int]:
    """Maps each of `_byte_symbols` to its byte."""
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return dict(zip(_byte_symbols(), [*_PRINTABLE, *others], strict=True))
