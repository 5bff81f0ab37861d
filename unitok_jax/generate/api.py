"""Public API: draws codes of images, whole or around codes that are given."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.codes import Codes, check_tokenizer
from unitok_jax.data.text import TextTokenizer
from unitok_jax.generate import inputs, loading
from unitok_jax.generate.companion import TextStates
from unitok_jax.generate.compiled import CompiledSampler, Settings
from unitok_jax.generate.config_checks import check_guidance, has_null_prompt
from unitok_jax.models import draw_settings
from unitok_jax.models.batched import choose_batch_size
from unitok_jax.models.precision import find
from unitok_jax.models.sampling import Filters

TEXTS = 8  # texts of which the tower computes the states at a time


class Sampler:
    """Generator with its weights. Methods take any number of samples and return codes.

    A sample is a function of (key, index, label or text) and of the settings of sampling: whatever
    is drawn beside it. A batch is cut into pieces of `batch_size`, and the last is padded to it: so
    that one program draws all samples. Another number of samples per device, another kind of device
    or precision rounds otherwise, which may move a draw.

    Attributes:
      config: configuration saved with the weights; `precision`, not `model.dtype`, sets the
        precision of the computation.
      hash: hash of the weights and of the settings that logits depend on, 32 hexadecimal digits.
      tokenizer_hash: `Tokenizer.hash` of the tokenizer whose codes it draws; None: not recorded.
      grid: rows and columns of tokens.
      classes: number of labels; 0 for a generator of texts.
      stored_features: digest of the features of texts that it was trained on; None: the states of
        the tokenizer's text tower, or no texts.
      notes: what the file of the weights lacks and is assumed, such as the grid, a line each.
      precision, batch_size: as given.
    """

    def __init__(
        self,
        weights: loading.Weights,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        precision: str = "float32",
    ):
        """Builds a sampler from weights; most users call `load_generator` instead.

        Args:
          weights: the weights, their configuration, and the hash of their tokenizer.
          batch_size: samples at a time, a multiple of the number of devices; by default 8 for each
            device on a CPU, and 32 elsewhere. Every batch takes the time of a full one.
          devices: devices of this process that share the samples; by default all.
          precision: as for `load_generator`.

        Raises:
          ValueError: a value that does not fit; the message names it.
        """
        devices = jax.local_devices() if devices is None else list(devices)
        self.batch_size = choose_batch_size(batch_size, devices)
        self.config, self.tokenizer_hash = weights.config, weights.tokenizer_hash
        self.stored_features, self.notes = weights.stored_features, weights.notes
        self.precision, self._devices = precision, devices
        model = weights.config.model.to_dict()
        self._compiled = CompiledSampler(model, weights.params, self.batch_size, devices, precision)
        self.hash = weights_hash(model, weights.params)
        self.grid = tuple(model["grid"])
        self.classes = model["classes"] if model["prompt"] == "class" else 0
        self._texts = functools.lru_cache(maxsize=1)(self._text_program)

    def __repr__(self) -> str:
        model, (books, entries) = self.config.model, self.codebook_shape
        prompt = f"{self.classes} classes" if self.classes else "texts"
        devices = {f"{device.platform}:{device.id}": None for device in self._devices}
        return (
            f"Sampler({model.size} of {prompt}, {self.grid[0]}x{self.grid[1]} tokens of {books} "
            f"codes of {entries}, {self.precision} on {', '.join(devices)})"
        )

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """Number of codebooks and entries of each, (K, V)."""
        model = self.config.model
        return model.num_codebooks, model.vocab_size // model.num_codebooks

    def check(self, tokenizer) -> None:
        """Refuses a tokenizer whose codes are not those that this generator draws.

        Args:
          tokenizer: a `Tokenizer`.

        Raises:
          ValueError: the message gives both values.
        """
        check_tokenizer(tokenizer, self.tokenizer_hash, self.codebook_shape, "the generator draws")

    def sample(
        self,
        labels=None,
        *,
        key: int = 0,
        index=None,
        scale=1.0,
        guided_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        features=None,
        valid=None,
        given=None,
        known=None,
    ) -> Codes:
        """Draws samples; logits are guided, divided by the temperature and filtered, in this order.

        Arrays of one row are repeated for all samples.

        Args:
          labels: (B,) integers, or one, of a generator of classes; None: none is given, and the
            null prompt is.
          key: seed of all draws, an integer in [0, 2^32).
          index: (B,) numbers of the samples, in [0, 2^32); by default 0, 1, ...; samples of equal
            (key, index) draw with the same random numbers.
          scale: scale of classifier-free guidance (arXiv 2207.12598): 1 does not guide; a number,
            (K,) for the codebooks, (N, 1) for the tokens, or (N, K). Behind the last token with
            another scale than 1 the null prompts are not computed any more.
          guided_tokens: number of first tokens that are guided, the others have scale 1; by default
            all.
          temperature: at least 0; 0 takes the largest logit.
          top_k: number of largest logits that are kept of each code; None: all.
          top_p: probability that the kept entries of each code have together, in (0, 1]
            (arXiv 1904.09751).
          features, valid: (B, T, F) and bool (B, T) of the texts, for a generator of texts: each at
            the end, behind its padding, which is not valid.
          given, known: codes (B, K, N) and bool (N,) or (rows, columns): see `complete`.

        Returns:
          int32 (B, K, N) with the attribute `grid`.

        Raises:
          ValueError, TypeError: a value out of its range, or guidance without a null prompt.
        """
        seed, filters, table, guided = self.check_settings(
            key=key,
            scale=scale,
            guided_tokens=guided_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        rows = self._prompts(labels, features, valid)
        if (given is None) != (known is None):
            raise ValueError("given and known belong together: the codes, and where they are kept")
        mask = np.zeros(len(table), bool)
        if given is not None:
            mask = inputs.check_known(known, self.grid)
            rows["given"] = inputs.check_given(given, mask, *self.codebook_shape, self.grid)
        if index is not None:
            rows["index"] = draw_settings.check_index(index, np.size(index))
        count = inputs.one_length(**rows)
        if index is None or len(rows["index"]) != count:
            rows["index"] = draw_settings.check_index(index, count)
        if "labels" not in rows and self.classes:
            if not has_null_prompt(self.config.model):
                raise ValueError("give labels: this generator has no null class")
            rows["labels"] = np.array([self.classes], np.int32)
        rows = {k: np.broadcast_to(v, (count, *v.shape[1:])) for k, v in rows.items()}
        settings = Settings(filters, guided, completes=given is not None)
        return Codes(
            np.concatenate([*self._compiled.run(settings, seed, rows, table, mask)]), self.grid
        )

    def complete(self, codes, known, labels=None, *, count: int = 1, **settings) -> Codes:
        """Draws the tokens that are not known, in raster order, around those that are.

        A token is drawn given the known tokens before it, and not those behind. First rows that are
        a sample's own are continued as that sample, under its key and index.

        Args:
          codes: (P, K, N) integers, or (K, N) of one image; read where `known` is true.
          known: bool (rows, columns) or (N,), True where a token is kept.
          labels: as for `sample`, one for each image or one for all; so are `features` and `valid`.
          count: samples of each image.
          **settings: as for `sample`; `index` is of all samples, by default 0, 1, ...

        Returns:
          int32 (P count, K, N), the samples of an image beside each other.

        Raises:
          ValueError, TypeError: as `sample`.
        """
        if count < 1:
            raise ValueError(f"count={count} must be at least 1")
        mask = inputs.check_known(known, self.grid)
        codes = inputs.check_given(codes, mask, *self.codebook_shape, self.grid)
        prompts = {"labels": labels} | settings
        for name, axes in (("labels", 1), ("features", 3), ("valid", 2)):  # of several images
            rows = prompts.get(name)
            if rows is not None and np.ndim(rows) == axes and len(rows) > 1:
                prompts[name] = np.repeat(rows, count, axis=0)
        return self.sample(given=np.repeat(codes, count, axis=0), known=known, **prompts)

    def text_prompts(self, tokenizer, texts: str | Sequence[str]) -> dict[str, np.ndarray]:
        """Computes the prompts of texts, from the states of a tokenizer's text tower.

        Args:
          tokenizer: the `Tokenizer` of the codes.
          texts: one or several, none of them blank; a long one loses its last tokens, which
            `TextTokenizer.length` counts.

        Returns:
          {'features': float32 (B, T, F), 'valid': bool (B, T)}, arguments of `sample`.

        Raises:
          ValueError, TypeError: a blank text, another tokenizer, or prompts of another kind, stored
            features among them.
        """
        self.check(tokenizer)
        if self.stored_features:
            raise ValueError(
                "this generator was trained on stored features of texts (data.text_features), not "
                "on the states of the tokenizer's text tower: draw in Python, and give features= "
                "and valid= of the same encoder to `sample`"
            )
        model, tower = self.config.model, tokenizer.config.model.text
        found = tower.context_length, tower.width
        if self.classes or found != (model.text_tokens, model.text_features):
            ours = "classes" if self.classes else f"{(model.text_tokens, model.text_features)}"
            raise ValueError(
                f"the tokenizer's text tower has states (T, F) = {found}, and this generator's "
                f"prompts are {ours}: give what it was trained on"
            )
        texts = inputs.check_texts(texts)
        ids = TextTokenizer(model.text_tokens)(texts)
        for number in np.flatnonzero(ids.argmax(axis=1) < 2):  # the end, of the largest id
            raise ValueError(f"text {number}, {texts[number]!r:.100}, has no word: no prompt")
        pieces = [ids[start : start + TEXTS] for start in range(0, len(ids), TEXTS)]
        program, rest = self._texts(tokenizer), [(0, TEXTS - len(pieces[-1])), (0, 0)]
        pieces[-1] = np.pad(pieces[-1], rest)
        states = [jax.device_get(program(tokenizer.params["text_encoder"], ids)) for ids in pieces]
        names = "features", "valid"
        return {name: np.concatenate([s[name] for s in states])[: len(texts)] for name in names}

    def _text_program(self, tokenizer):
        """Compiles the text tower of a tokenizer."""
        found, model = find(self.precision, self._devices[0].platform), self.config.model.to_dict()
        states = TextStates(tokenizer.config.model.to_dict(), model | {"dtype": found.dtype})

        def run(params, ids):
            with jax.default_matmul_precision(found.matmul_precision):
                return states(params, ids)

        return jax.jit(run)

    def check_settings(
        self, *, key, scale, guided_tokens, temperature, top_k, top_p
    ) -> tuple[int, Filters, np.ndarray, int]:
        """Checks settings of `sample`.

        Returns:
          the seed, the filters, the scale of every code, float32 (N, K), and the number of first
          tokens that are guided.

        Raises:
          ValueError: a value out of its range, or guidance without a null prompt.
        """
        books, entries = self.codebook_shape
        tokens = self.grid[0] * self.grid[1]
        table, guided = draw_settings.check_scale(scale, guided_tokens, tokens, books)
        if guided:
            check_guidance(self.config.model, scale)
        filters = draw_settings.check_filters(temperature, top_k, top_p, entries)
        return draw_settings.check_seed(key), filters, table, guided

    def _prompts(self, labels, features, valid) -> dict[str, np.ndarray]:
        model = self.config.model
        if self.classes:
            if features is not None or valid is not None:
                raise ValueError("features are of texts, and this generator has classes: labels=")
            return {} if labels is None else {"labels": inputs.check_labels(labels, self.classes)}
        if labels is not None or features is None:
            raise ValueError("this generator's prompts are texts: give features= and valid=")
        features, valid = inputs.check_features(
            features, valid, model.text_tokens, model.text_features
        )
        return {"features": features, "valid": valid}


def load_generator(
    path,
    batch_size: int | None = None,
    *,
    precision: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    weights: str | None = None,
    grid: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Sampler:
    """Loads a generator; its configuration and its tokenizer's hash come with the weights.

    Args:
      path: a workdir (its newest checkpoint), a folder `checkpoints/<step>` in one, a folder for
        the Hugging Face hub, `hf://owner/name`, or a .pth, .pt or .safetensors file.
      batch_size, devices: as for `Sampler`.
      precision: of the computation, whatever the weights were trained with, as for `load`; logits
        and draws are float32 always.
      weights: 'ema', the average, or 'raw', the trained weights; by default the average if there is
        one.
      grid, classes: needed only for a file of the release that does not tell them; checked if the
        file does.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: not a generator's checkpoint, or one that does not fit its configuration, or a
        precision that is unknown or not supported by the devices.
      ImportError: a PyTorch file without PyTorch.
    """
    found = loading.read(path, weights, grid=grid, classes=classes)
    return Sampler(found, batch_size, devices, precision)
