"""Tokenizers of language models for tests: small, trained here, with the parts of real ones."""

import functools
import json

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from unitok_jax.data.language_tokenizer import FILE, SETTINGS, LanguageTokenizer

TEXT = (
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: what colour is the circle? ASSISTANT: the circle is red",
    "how many shapes are there? there are three shapes: a blue square, a star and a cross",
)
LLAMA2 = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
WORDS = {"bos_token": None, "eos_token": "<eos>", "unk_token": "<unk>"}
CHATML = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


@functools.cache
def llama2() -> dict[str, bytes]:
    """Files as those of Llama 2: no splits of words, bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # for the training alone
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    corpus = [text.replace(" ", " ▁") for text in TEXT]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(tokenizer.to_str())
    # Bytes are ordinary entries of the vocabulary there.
    content["added_tokens"] = [t for t in content["added_tokens"] if "<0x" not in t["content"]]
    return files(content, LLAMA2)


@functools.cache
def llama3() -> dict[str, bytes]:
    """Files as those of Llama 3 Instruct: bytes as characters, special ids behind them."""
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    names += ["start_header_id", "end_header_id", "eot_id"]
    return files(_byte_level([f"<|{name}|>" for name in names]), LLAMA3)


@functools.cache
def chatml(*more: str) -> dict[str, bytes]:
    """Files as those of Qwen2 Instruct, which has no token for the begin of a row."""
    return files(_byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]), CHATML)


@functools.cache
def words(special=("<unk>", "<eos>", "<boi>", "<eoi>"), size: int = 0) -> dict[str, bytes]:
    """Files of a vocabulary of words, filled up to `size` ids."""
    known = sorted({word for text in TEXT for word in text.replace("?", " ?").split()})
    vocabulary = {word: number for number, word in enumerate([*special, *known])}
    vocabulary |= {f"w{number}": number for number in range(len(vocabulary), size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+|(?=\?)"), "removed")
    return files(json.loads(tokenizer.to_str()), WORDS)


def files(content: dict, settings: dict | None) -> dict[str, bytes]:
    """The two files of a tokenizer."""
    out = {FILE: json.dumps(content).encode()}
    return out | ({SETTINGS: json.dumps(settings).encode()} if settings is not None else {})


def made(of, **options) -> LanguageTokenizer:
    """The tokenizer of files."""
    return LanguageTokenizer(of, **options)


def save(folder, of):
    """Writes files to a folder, which is made, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in of.items():
        (folder / name).write_bytes(content)
    return folder


def _byte_level(special) -> dict:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return json.loads(tokenizer.to_str())
