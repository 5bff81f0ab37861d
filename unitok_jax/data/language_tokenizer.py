"""Tokenizers of language models: tokenizer.json of a Hugging Face folder, and named special ids."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath
from tokenizers import Tokenizer

from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.paths import is_remote, printable, read_regular

FILE, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
NAMED = "special_ids.json"
"""Files of a tokenizer in a folder; the first alone is needed, and the last is of this package."""

_MOST = {FILE: 1 << 27, SETTINGS: 1 << 22, TEMPLATE: 1 << 20, NAMED: 1 << 12}  # bytes
FILES = tuple(_MOST)
"""Names of all of them."""
# Pairs of tokens that stand around images; the first pair that a vocabulary has is taken.
IMAGE_TOKENS = (
    ("<boi>", "<eoi>"),
    ("<0x00>", "<0x01>"),  # bytes of Llama 2, as UniTok's release
    ("<|vision_start|>", "<|vision_end|>"),  # Qwen 2.5 and 3
    ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),  # Llama 3
)
# Special tokens that chat templates use.
_OF_TEMPLATES = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>"),
)
# Bytes below the space, but for tab, line feed and carriage return: they are in no text.
_CONTROL_BYTE = re.compile(r"<0x(0[0-8BCEF]|1[0-9A-F])>")


class SpecialIds(NamedTuple):
    """Ids that stand for no text."""

    bos: int | None  # begins a row; None: rows of this model begin without one
    eos: int  # ends an answer, or a row
    pad: int
    boi: int  # begins an image
    eoi: int  # ends an image

    @property
    def start(self) -> tuple[int, ...]:
        """Ids that a row begins with: one or none."""
        return () if self.bos is None else (self.bos,)


class LanguageTokenizer:
    """Turns text into ids of a language model, and back. Can be pickled and shared by threads.

    Text that spells out a special token is text like any other: no caption or question can end a
    row or begin an image.

    Attributes:
      size: ids of the vocabulary, special ones included.
      rows: rows of the embeddings that the ids need, at least those that were given.
      special: the named ids.
      chat_template: the tokenizer's own, in Jinja; '' if it has none. It is never run.
      files: name -> content, by which `LanguageTokenizer` is built again.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        rows: int | None = None,
        ids: Mapping[str, int] | None = None,
        boi: int | None = None,
        eoi: int | None = None,
        name: str = "",
    ):
        """Builds the tokenizer.

        Args:
          files: content of `FILE` and, if there are any, of the others.
          rows: rows of the model's embeddings; None: as many as the vocabulary needs.
          ids: bos, eos and pad where `SETTINGS` does not name them, as config.json does.
          boi, eoi: ids that stand around an image. If not given: those of `NAMED`, else a pair of
            `IMAGE_TOKENS`, else the rows behind the vocabulary, which are added where there are
            none.
          name: the folder, for messages.

        Raises:
          ValueError: a file is damaged or asks for code to be run, the vocabulary has more ids than
            the embeddings have rows, there is no end of text, or an id is in use.
        """
        where = f"{name}/{FILE}" if name else FILE
        self._tokenizer = _parse(files[FILE], where)
        names = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self.size = max(names, default=-1) + 1
        if not names:
            raise ValueError(f"{where} has an empty vocabulary")
        if rows is not None and self.size > rows:
            raise ValueError(
                f"{where} has {self.size} ids, and the model's embeddings {rows} rows (vocab_size "
                "of config.json): the tokenizer is of another model"
            )
        settings, kept = (_object(files, key, name) for key in (SETTINGS, NAMED))
        self.chat_template = _chat_template(files, settings)
        rows = self.size if rows is None else rows
        if kept:
            boi = kept.get("boi") if boi is None else boi
            eoi = kept.get("eoi") if eoi is None else eoi
            settings, ids = {}, kept
        self.special = self._named(settings, ids or {}, names, rows, boi, eoi, where)
        self.rows = max(rows, self.special.boi + 1, self.special.eoi + 1)
        self.files = {**files, NAMED: json.dumps(self.special._asdict()).encode()}
        self._name = name
        self._special = frozenset({*self.special.start, *self.special[1:2], *self.special[3:]})

    def __reduce__(self):
        return _rebuild, (self.files, self.rows, self._name)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without any special ones."""
        return [number for number, _ in self.spans(text)]

    def spans(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Returns the ids of a text, each with the characters (first, behind the last) it is of.

        Raises:
          TypeError: not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, got {type(text).__name__}: {text!r:.80}")
        found = self._tokenizer.encode(_replace_surrogates(text), add_special_tokens=False)
        pairs = zip(found.ids, found.offsets, strict=True)
        return [(number, span) for number, span in pairs if number not in self._special]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special ones, and rows that stand for no token, are left out."""
        shown = [n for n in map(int, ids) if 0 <= n < self.size and n not in self._special]
        return self._tokenizer.decode(shown, skip_special_tokens=True)

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token by its name in the vocabulary, None if there is none."""
        return self._tokenizer.token_to_id(token)

    @property
    def end(self) -> str:
        """Name of the token that ends a text."""
        return self._tokenizer.id_to_token(self.special.eos)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids of the tokens by their names."""
        return self._tokenizer.get_vocab()

    @property
    def hash(self) -> str:
        """Hash of vocabulary and special ids, 32 hexadecimal digits."""
        facts = [hashlib.sha256(self.files[FILE]).hexdigest(), self.special]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _named(self, settings, ids, names, rows, boi, eoi, where) -> SpecialIds:
        found = {}
        for key in ("bos", "eos", "pad", "unk"):
            token = _token(settings, f"{key}_token", where)
            number = ids.get(key) if token is _UNTOLD else token and self.id_of(token)
            if token not in (_UNTOLD, None) and number is None:
                raise ValueError(f"{where} has no {key}_token {token!r}, which {SETTINGS} names")
            if number is not None and not (type(number) is int and number in names):
                raise ValueError(f"{where} has no id {number!r}, which {key}_token_id names")
            found[key] = number
        if found["eos"] is None:
            raise ValueError(
                f"{where} names no end of text: set eos_token in {SETTINGS}, or eos_token_id in "
                "config.json"
            )
        fallbacks = (found["pad"], found["unk"], found["eos"])
        pad = next(number for number in fallbacks if number is not None)
        pair = next((p for p in IMAGE_TOKENS if None not in map(self.id_of, p)), None)
        first, last = map(self.id_of, pair) if pair else (self.size, self.size + 1)
        boi, eoi = first if boi is None else boi, last if eoi is None else eoi
        special = SpecialIds(found["bos"], found["eos"], pad, boi, eoi)
        self._check_free(special, found["unk"], names, rows)
        return special

    def _check_free(self, special, unknown, names, rows):
        """Refuses ids of images that text, or something else, has."""
        flagged = self._tokenizer.get_added_tokens_decoder()
        taken = {self.id_of(token): token for token in _OF_TEMPLATES}
        taken |= {special.bos: "bos", unknown: "unk", special.pad: "pad", special.eos: "eos"}
        for key, number in (("boi", special.boi), ("eoi", special.eoi)):
            if type(number) is not int or not 0 <= number < max(rows, self.size + 2):
                raise ValueError(
                    f"{key}={number!r} must be an id below the {rows} rows of the embeddings, or "
                    f"{self.size} or {self.size + 1}, behind the vocabulary"
                )
            use = taken.get(number)
            if use is None and number in names and not _CONTROL_BYTE.fullmatch(names[number]):
                is_special = number in flagged and flagged[number].special
                use = None if is_special else f"the token {names[number]!r} of text"
            if use is not None:
                raise ValueError(
                    f"{key}={number} is in use: it is {use}; give an id that no text has, or none "
                    "for a default"
                )
            taken[number] = key


def read(folder: str | os.PathLike, **options: Any) -> LanguageTokenizer:
    """Reads the tokenizer of a folder.

    Args:
      folder: holds `FILE`, and perhaps others; it may be in a bucket.
      **options: of `LanguageTokenizer`.

    Raises:
      FileNotFoundError: the folder holds no `FILE`.
      ValueError: as `LanguageTokenizer`, or a file is larger than such files are.
    """
    folder = epath.Path(folder)
    if not (folder / FILE).exists():
        rest = "give a folder that has it, such as that of the base model"
        if (folder / "tokenizer.model").exists():
            rest = f"tokenizer.model, of SentencePiece, is not read; {rest}"
        raise FileNotFoundError(f"{printable(folder)} holds no {FILE}: {rest}")
    there = {name: most for name, most in _MOST.items() if (folder / name).exists()}
    files = {name: _read(folder / name, most) for name, most in there.items()}
    return LanguageTokenizer(files, name=printable(folder), **options)


def write(folder: str | os.PathLike, tokenizer: LanguageTokenizer) -> None:
    """Writes the files of a tokenizer to a folder, from which `read` gives the same."""
    for name, content in tokenizer.files.items():
        (epath.Path(folder) / name).write_bytes(content)


def _read(path, most) -> bytes:
    return path.read_bytes() if is_remote(path) else read_regular(path, most)


def _rebuild(files, rows, name):
    return LanguageTokenizer(files, rows=rows, name=name)


def _parse(content, where) -> Tokenizer:
    # Rows are encoded by threads and worker processes of our own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_str(content.decode())
        tokenizer.encode("\ue000")  # of no vocabulary: some raise for what they do not know
    # The library has no narrower class than Exception, and a panic of its Rust is not even that.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"{where} is not a tokenizer that can be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text, where text spells them out
    return tokenizer


def _object(files, key, name) -> dict[str, Any]:
    """Returns the content of a file of JSON, {} if there is none."""
    if key not in files:
        return {}
    where = f"{name}/{key}" if name else key
    content = parse_object(files[key], where)
    if "auto_map" in content:
        raise ValueError(f"{where}: auto_map asks for code of the folder to be run: refused")
    return content


_UNTOLD = object()


def _token(settings, key, where):
    """Returns the token that settings name, None if they say that there is none, or `_UNTOLD`."""
    if key not in settings:
        return _UNTOLD
    value = settings[key]
    value = value["content"] if isinstance(value, dict) and "content" in value else value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {key} of {SETTINGS} must be a token's name, not {value!r:.80}")
    return value


def _chat_template(files, settings) -> str:
    """Returns the template; of several with names, the one named default."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode(errors="replace")
    found = settings["chat_template"] if "chat_template" in settings else ""
    if isinstance(found, list):
        named = (entry for entry in found if isinstance(entry, dict))
        found = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    return found if isinstance(found, str) else ""


def _replace_surrogates(text: str) -> str:
    """Replaces halves of characters, which have no bytes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
