"""Drawing of the demo page: pictures of a class or a text, whole or around an uploaded image."""

from typing import NamedTuple

import numpy as np

from unitok_jax.codes import STRIDE
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.text import TextTokenizer
from unitok_jax.demo import actions, editing
from unitok_jax.generate.config_checks import has_null_prompt

PICTURES = 4  # samples of one prompt, and the batch of the sampler
MAX_TEXT = 1_000  # characters of a prompt
ALL = "all"  # as top_k: no entry is left out
TOP_K = (1, 4, 16, 64, 256, 1024, 4096)  # a program is compiled for each power of two


class Settings(NamedTuple):
    """Values of the fields: scale of guidance, temperature, one of `top_k_choices`, and seed."""

    scale: float
    temperature: float
    top_k: str
    seed: int | None


def check(sampler, tokenizer) -> None:
    """Checks that the page can draw with a `Sampler` and show it with a `Tokenizer`.

    Raises:
      ValueError: its codes are another tokenizer's, or its prompts texts of other features.
    """
    sampler.check(tokenizer)
    if not sampler.classes:
        sampler.text_prompts(tokenizer, "a picture")


def image_size(sampler) -> tuple[int, int]:
    """Returns (height, width) in pixels of what a `Sampler` draws."""
    rows, columns = sampler.grid
    return rows * STRIDE, columns * STRIDE


def has_null_class(sampler) -> bool:
    """Returns True if a `Sampler` can be guided, and draw without a class."""
    return has_null_prompt(sampler.config.model)


def top_k_choices(sampler) -> list[str]:
    """Returns what `Settings.top_k` may be."""
    return [ALL, *(str(number) for number in TOP_K if number < sampler.codebook_shape[1])]


def regions(grid: tuple[int, int]) -> dict[str, editing.Region]:
    """Returns regions of a grid by name."""
    rows, columns = grid
    tall, wide = -(-rows // 2), -(-columns // 2)
    return {
        "Lower half": editing.Region(rows // 2, 0, tall, columns),
        "Right half": editing.Region(0, columns // 2, rows, wide),
        "Centre": editing.Region(rows // 4, columns // 4, tall, wide),
    }


def draw(models: actions.Models, checkpoint: str, sampler, prompt, settings: Settings):
    """Draws pictures of one prompt; a seed gives the same ones again.

    Args:
      models, checkpoint: the tokenizer of the sampler's codes.
      sampler: a `Sampler`.
      prompt: a label, or None for the null class; or a text.
      settings: values of the fields.

    Returns:
      ([(uint8 (H, W, 3), its number as text)], facts as text).

    Raises:
      ValueError: a value out of its range.
    """
    given, note = _prompt(models[checkpoint], sampler, prompt)
    codes = sampler.sample(index=np.arange(PICTURES), **given, **keywords(settings))
    books, tokens = codes.shape[1:]
    facts = f"{tokens} tokens of {books} codes drawn for each picture, seed {settings.seed}.{note}"
    return show(models[checkpoint], codes), facts


def complete(models, checkpoint, sampler, path, region, prompt, settings: Settings):
    """Draws a region of an uploaded image again, given its other tokens; see `draw`.

    Args:
      path: the uploaded file, which is resized and cropped to `image_size`.
      region: `Region` of tokens that are drawn.
    """
    editing.check_region(region, sampler.grid)
    given, note = _prompt(models[checkpoint], sampler, prompt)
    codes = models.encoded(checkpoint, path, image_size(sampler)).codes
    known = np.ones(codes.shape[1], bool)
    known[editing.region_tokens(codes, sampler.grid, region)] = False
    drawn = sampler.complete(codes, known, count=PICTURES, **given, **keywords(settings))
    facts = (
        f"{np.count_nonzero(~known)} of {known.size} tokens drawn, the others kept, "
        f"seed {settings.seed}.{note}"
    )
    return show(models[checkpoint], drawn), facts


def _prompt(tokenizer, sampler, prompt) -> tuple[dict, str]:
    """Returns a prompt as arguments of `Sampler.sample`, and a note for the facts."""
    if sampler.classes:
        if prompt is None and not has_null_class(sampler):
            raise ValueError(f"give a class: a whole number from 0 to {sampler.classes - 1}")
        return {"labels": prompt}, ""
    check_text(prompt)
    length = sampler.config.model.text_tokens
    cut = TextTokenizer(length).length(prompt) > length
    note = f" The text has over {length} tokens and lost its last words." if cut else ""
    return sampler.text_prompts(tokenizer, prompt), note


def check_text(text: str | None, name: str = "text") -> None:
    """Raises ValueError for no text, or one that is too long."""
    if not text or not text.strip() or len(text) > MAX_TEXT:
        raise ValueError(f"{name}: give 1 to {MAX_TEXT} characters")


def keywords(settings: Settings) -> dict:
    """Returns the values of the fields as arguments of `Sampler.sample`."""
    actions.check_seed(settings.seed)
    return {
        "key": settings.seed,
        "scale": settings.scale,
        "temperature": settings.temperature,
        "top_k": None if settings.top_k == ALL else int(settings.top_k),
    }


def show(tokenizer, codes) -> list[tuple[np.ndarray, str]]:
    """Decodes codes (B, K, N) to pictures, uint8 (H, W, 3), with their numbers."""
    pictures = to_uint8(tokenizer.decode(codes))
    return [(picture, str(number)) for number, picture in enumerate(pictures, 1)]
