"""Public API: answers questions about images, and draws and edits them."""

import collections
import copy
import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.codes import Codes, check_tokenizer
from unitok_jax.data.images.padding import GREY, MEAN
from unitok_jax.models import draw_settings
from unitok_jax.models.batched import choose_batch_size
from unitok_jax.multimodal import loading
from unitok_jax.multimodal.asking import Asker, stacked
from unitok_jax.multimodal.compiled import STEP, Answering, CompiledModel, Drawing
from unitok_jax.multimodal.pictures import fitted
from unitok_jax.multimodal.prompt import end_of
from unitok_jax.multimodal.rows import Sample
from unitok_jax.system.arrays import as_numpy

LIMIT = 128
"""Ids of an answer, at most, where nothing else is asked for."""


class MultimodalModel:
    """Multimodal model with its weights: answers about images in text, and draws images as codes.

    An answer or a drawing is a function of its question, images, key and index, and of the settings
    of sampling: whatever is asked beside it. A batch is cut into pieces of `batch_size`, and the
    last is padded to it. Another number of rows per device, another kind of device or precision
    rounds otherwise, which may move a draw.

    Images are pixels, uint8 (H, W, 3), Pillow images or paths of files, which need a tokenizer:
    they are padded to a square and resized to the size of the grid, as `MEAN` of
    `data.images.padding` says, or `GREY` if `model.projection` is full. Or they are codes (K, N).

    Attributes:
      config: configuration saved with the weights; `precision`, not `model.dtype`, sets the
        precision of the computation.
      tokenizer: the `Tokenizer` of the codes; None: images are given as codes.
      text: the tokenizer of text.
      hash: hash of the weights and of the settings that logits depend on, 32 hexadecimal digits.
      tokenizer_hash: `Tokenizer.hash` of the tokenizer whose codes it knows; None: not recorded.
      grid: rows and columns of visual tokens.
      precision, batch_size: as given.
    """

    def __init__(
        self,
        weights: loading.Weights,
        tokenizer=None,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        precision: str = "float32",
        length: int = loading.POSITIONS,
    ):
        """Builds a model from weights; most users call `load_multimodal` instead.

        Args:
          weights: as `loading.read` returns them.
          tokenizer: the `Tokenizer` of the codes, or None.
          batch_size: rows at a time, a multiple of the number of devices; by default 8 for each
            device on a CPU, and 32 elsewhere. Every batch takes the time of a full one.
          devices: devices of this process that share the rows; by default all.
          precision: as for `load_multimodal`.
          length: ids and visual tokens of a prompt with its answer or drawing, at most.

        Raises:
          ValueError: a value that does not fit, or another tokenizer; the message names it.
        """
        self._devices = jax.local_devices() if devices is None else list(devices)
        self.batch_size = choose_batch_size(batch_size, self._devices)
        self.config, self.tokenizer_hash = weights.config, weights.tokenizer_hash
        self.text, self.precision = weights.text, precision
        model = weights.config.model.to_dict()
        self.grid, self.hash = tuple(model["grid"]), weights_hash(model, weights.params)
        self._codebook = weights.params["image"]["quantizer"]["codebook"]
        template = weights.form.template or None
        self._padding = GREY if model["projection"] == "full" else MEAN
        self._asker = Asker(weights.text, template, weights.form.bare_images, length)
        self._stops = tuple(sorted({end_of(weights.text, template), weights.text.special.eos}))
        if tokenizer is not None:
            self.check(tokenizer)
        self.tokenizer = tokenizer
        self._compiled = CompiledModel(
            model, weights.params, self.batch_size, self._devices, precision
        )

    def __repr__(self) -> str:
        model, (books, entries) = self.config.model, self.codebook_shape
        devices = {f"{device.platform}:{device.id}": None for device in self._devices}
        return (
            f"MultimodalModel({model.depth} blocks of width {model.width}, {self.grid[0]}x"
            f"{self.grid[1]} tokens of {books} codes of {entries}, {self.precision} on "
            f"{', '.join(devices)})"
        )

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """Number of codebooks and entries of each, (K, V)."""
        model = self.config.model
        return model.num_codebooks, model.vocab_size // model.num_codebooks

    @property
    def question_facts(self) -> dict[str, str | bool]:
        """Facts that answers depend on beside the weights: `Asker.facts`."""
        return self._asker.facts

    def with_params(self, params) -> "MultimodalModel":
        """Returns the same model with other weights, which shares the compiled programs.

        Args:
          params: nested dict of float32 arrays, of the same shapes.
        """
        other = copy.copy(self)
        other.hash = weights_hash(self.config.model.to_dict(), params)
        other._compiled = self._compiled.with_params(params)
        return other

    def check(self, tokenizer) -> None:
        """Refuses a tokenizer whose codes are not those that this model reads and draws.

        Args:
          tokenizer: a `Tokenizer`.

        Raises:
          ValueError: the message gives both values.
        """
        check_tokenizer(
            *(tokenizer, self.tokenizer_hash, self.codebook_shape),
            "the multimodal model reads and draws",
        )
        named = self.tokenizer_hash is not None
        if not named and not loading.is_codebook_of(self._codebook, tokenizer.params):
            raise ValueError(
                "the multimodal model has other codebooks than this tokenizer, of hash "
                f"{tokenizer.hash}: give the tokenizer that made the codes it was trained on"
            )

    def encode(self, images: Iterable) -> Codes:
        """Returns the codes of images, int32 (B, K, N), as answers and edits take them.

        Args:
          images: B images, each as above.

        Raises:
          ValueError, TypeError: an image of another form, or one of pixels without a tokenizer.
          OSError: a file cannot be read.
        """
        images = list(images)
        books, (rows, columns) = self.codebook_shape[0], self.grid
        found = np.zeros((len(images), books, rows * columns), np.int32)
        pictures = []
        for number, image in enumerate(images):
            if _is_codes(image):
                found[number] = self._check_codes(image, f"image {number}")
            elif self.tokenizer is None:
                raise ValueError(
                    f"image {number} is no codes: load the model with tokenizer=, that of its codes"
                )
            else:
                pictures.append(number)
        size = self.tokenizer.batch_size if pictures else 1
        for start in range(0, len(pictures), size):  # so that no more pixels are in memory
            piece = pictures[start : start + size]
            pixels = [fitted(images[n], self.grid, f"image {n}", self._padding) for n in piece]
            found[piece] = self.tokenizer.encode(np.stack(pixels))
        return Codes(found, self.grid)

    def answer(self, image, question, **settings) -> str:
        """Answers one question: `answers` of one."""
        return self.answers([image], [question], **settings)[0]

    def answers(
        self,
        images: Sequence | None,
        questions: Sequence,
        *,
        batch_size: int | None = None,
        limit: int = LIMIT,
        system: str | None = None,
        key: int = 0,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Answers questions about images.

        Args:
          images: for each question an image, a list of images, or None; None: no question has any.
          questions: text; or the messages of a conversation, {'role': 'user' or 'assistant',
            'content': text} in turn, the last of which is answered. An image stands where the text
            has `<image>`; without such places the images stand before the first question.
          batch_size: questions at a time from now on; None: as before.
          limit: ids of an answer, at most.
          system: instruction that comes first, '' is none; None: that of the model's template.
          key: seed of all draws, an integer in [0, 2^32).
          temperature: 0 takes the likeliest id.
          top_k: number of likeliest ids that are kept; None: all.
          top_p: probability that the kept ids have together, in (0, 1].
          on_batch: called with the number of answers of each batch once it is computed.

        Returns:
          the texts of the answers.

        Raises:
          ValueError, TypeError: a value out of its range, no question, other places than images, or
            a question that is too long.
          OSError: the file of an image cannot be read.
        """
        if isinstance(questions, str):
            raise TypeError("questions are a text: give a list, or ask one by answer()")
        questions = list(questions)
        images = [None] * len(questions) if images is None else list(images)
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images for {len(questions)} questions: one for each")
        draw_settings.check_limit(limit)
        self._set_batch_size(batch_size)
        rows, what = self.config.model.vocabulary, "ids of the text"
        filters = draw_settings.check_filters(temperature, top_k, top_p, rows, what)
        seed = draw_settings.check_seed(key)
        lists = [_listed(each) for each in images]
        codes = iter(self.encode(itertools.chain(*lists)))
        rows = [
            self._asker.question(
                asked, [*itertools.islice(codes, len(own))], limit, system, f"question {number}"
            )
            for number, (asked, own) in enumerate(zip(questions, lists, strict=True))
        ]
        settings, found = Answering(filters, self._stops, limit), [""] * len(rows)
        for numbers in _groups(rows):
            index = np.array(numbers, np.uint32)
            prompt = self._stacked([rows[n] for n in numbers])
            left = iter(numbers)
            for batch in self._compiled.answer(settings, seed, index, prompt):
                for ids, count in zip(batch.ids, batch.count, strict=True):
                    found[next(left)] = self.text.decode(ids[:count]).strip()
                if on_batch is not None:
                    on_batch(len(batch.ids))
        return found

    def draw(self, texts: str | Sequence[str], **settings) -> Codes:
        """Draws an image for each text.

        Args:
          texts: descriptions, one or several.
          **settings: `index`, (B,) numbers of the images, by default 0, 1, ...; images of equal
            (key, index) draw with the same random numbers. `key`, `scale`, `guided_tokens`,
            `temperature`, `top_k`, `top_p`: as for a generator's `Sampler.sample`; the null prompt
            of guidance is that of images without a description. `released`: True draws as the code
            of UniTok's release, which shows each token to the model as if it stood alone.

        Returns:
          int32 (B, K, N) with the attribute `grid`: `tokenizer.decode` makes pictures of them.

        Raises:
          ValueError, TypeError: a value out of its range, a blank text, or one that is too long.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        return self._draw(self._drawings(texts), **settings)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuses texts that `draw` refuses."""
        self._drawings(texts)

    def _check_draws(self) -> None:
        if self.config.model.projection == "full":
            raise ValueError(
                "this model has model.projection=full, by which each token of an image sees those "
                "behind it: it answers, and draws nothing"
            )

    def _drawings(self, texts: Sequence[str]) -> list[Sample]:
        self._check_draws()
        tokens = self.grid[0] * self.grid[1]
        named = ((text, f"text {number}") for number, text in enumerate(texts))
        return [self._asker.drawing(text, tokens, name) for text, name in named]

    def edit(self, image, instruction: str, **settings) -> Codes:
        """Draws one image anew: `edits` of one."""
        return self.edits([image], [instruction], **settings)

    def edits(self, images: Iterable, instructions: Sequence[str], **settings) -> Codes:
        """Draws images anew, after instructions; for models that were trained on edits.

        Args:
          images: B images.
          instructions: one for each, such as 'make the circle red'.
          **settings: as for `draw`.

        Returns:
          int32 (B, K, N) with the attribute `grid`.

        Raises:
          ValueError, TypeError: as for `draw` and `encode`, or another number of instructions.
          OSError: the file of an image cannot be read.
        """
        self._check_draws()
        images, instructions = list(images), list(instructions)
        if len(images) != len(instructions):
            raise ValueError(f"{len(images)} images for {len(instructions)} instructions")
        pairs = zip(self.encode(images), instructions, strict=True)
        rows = [self._asker.edit(*pair, f"instruction {n}") for n, pair in enumerate(pairs)]
        return self._draw(rows, **settings)

    def check_settings(
        self,
        *,
        key=0,
        scale=1.0,
        guided_tokens=None,
        temperature=1.0,
        top_k=None,
        top_p=1.0,
    ):
        """Checks settings of `draw`.

        Returns:
          the seed, the filters, the scale of every code, float32 (N, K), and the number of first
          tokens that are guided.

        Raises:
          ValueError: a value out of its range.
        """
        books, entries = self.codebook_shape
        tokens = self.grid[0] * self.grid[1]
        table, guided = draw_settings.check_scale(scale, guided_tokens, tokens, books)
        filters = draw_settings.check_filters(temperature, top_k, top_p, entries)
        return draw_settings.check_seed(key), filters, table, guided

    def _draw(self, rows: list[Sample], *, index=None, released=False, **settings) -> Codes:
        if not rows:
            raise ValueError("texts are empty: give at least one")
        seed, filters, table, guided = self.check_settings(**settings)
        index = draw_settings.check_index(index, len(rows))
        books, tokens = self.codebook_shape[0], self.grid[0] * self.grid[1]
        null = self._asker.unconditional(tokens) if guided else None
        program = Drawing(filters, bool(guided), bool(released))
        found = np.zeros((len(rows), books, tokens), np.int32)
        for numbers in _groups(rows, len(null.ids) if guided else 0):
            prompt = self._stacked([rows[n] for n in numbers])
            nulls = None
            if guided:
                nulls = self._stacked([null] * len(numbers), prompt.codes.shape[1])
            batches = self._compiled.draw(program, seed, index[numbers], prompt, nulls, table)
            found[numbers] = np.concatenate([*batches])
        return Codes(found, self.grid)

    def _stacked(self, rows, images: int = 1):
        tokens = self.grid[0] * self.grid[1]
        return stacked(rows, self.codebook_shape[0], tokens, images)

    def _check_codes(self, image, name: str) -> np.ndarray:
        """Returns the codes (K, N) of an image, given as those or (1, K, N)."""
        books, entries = self.codebook_shape
        grid, codes = getattr(image, "grid", None), as_numpy(image)
        codes = codes[0] if codes.ndim == 3 and len(codes) == 1 else codes
        expected = books, self.grid[0] * self.grid[1]
        if codes.shape != expected or grid not in (None, self.grid):
            raise ValueError(
                f"{name} has codes of shape {codes.shape}, grid {grid}: this model knows (K, N) = "
                f"{expected}, grid {self.grid}"
            )
        if codes.min() < 0 or codes.max() >= entries:
            raise ValueError(
                f"{name} has codes from {codes.min()} to {codes.max()}; this model's are 0 to "
                f"{entries - 1}: were they made by another tokenizer?"
            )
        return codes

    def _set_batch_size(self, batch_size: int | None) -> None:
        if batch_size in (None, self.batch_size):
            return
        self.batch_size = choose_batch_size(batch_size, self._devices)
        model = self.config.model.to_dict()
        self._compiled = CompiledModel(
            model, self._compiled.params, batch_size, self._devices, self.precision
        )


def load_multimodal(
    path,
    tokenizer=None,
    batch_size: int | None = None,
    *,
    precision: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    weights: str | None = None,
    text=None,
    grid: tuple[int, int] | None = None,
    length: int = loading.POSITIONS,
) -> MultimodalModel:
    """Loads a multimodal model; its configuration and the tokenizer of its text come with it.

    Args:
      path: a workdir (its newest checkpoint), a folder `checkpoints/<step>` in one, a folder for
        the Hugging Face hub, `hf://owner/name`, or a folder as of UniTok's release.
      tokenizer: the `Tokenizer` of its codes, as `load` returns it; None: images are codes.
      batch_size, devices, length: as for `MultimodalModel`.
      precision: of the computation, whatever the weights were trained with, as for `load`; logits
        and draws are float32 always.
      weights: 'ema', the average, or 'raw', the trained weights; by default the average if there is
        one.
      text: a folder with the tokenizer of text, if `path` holds none.
      grid: rows and columns of visual tokens, for a folder of the release, which does not tell
        them; 16 x 16 if not given.

    Raises:
      FileNotFoundError: the path, or the tokenizer of text, does not exist.
      ValueError: not a multimodal model's folder, weights that do not fit their configuration,
        another tokenizer, or a precision that is unknown or not supported by the devices.
    """
    found = loading.read(path, weights, text=text, grid=grid)
    return MultimodalModel(found, tokenizer, batch_size, devices, precision, length)


def _is_codes(image) -> bool:
    """Returns True for an array of integers that is no picture: those are uint8 (H, W, 3)."""
    if isinstance(image, Codes):
        return True
    if not hasattr(image, "dtype"):  # a path, or a Pillow image
        return False
    dtype = as_numpy(image).dtype
    return dtype != np.uint8 and dtype.kind in "iu"


def _listed(images) -> list:
    """Returns the images of one question."""
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _groups(rows: Sequence[Sample], least: int = 0) -> list[list[int]]:
    """Returns the numbers of rows that share a program: of one rounded length, and as many images.

    So a row's program does not depend on what is asked beside it.
    """
    groups = collections.defaultdict(list)
    for number, row in enumerate(rows):
        groups[-(-max(len(row.ids), least) // STEP), len(row.codes)].append(number)
    return list(groups.values())
