"""Public API: encodes images to codes, decodes codes, computes features of images and texts."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.codes import STRIDE, Codes
from unitok_jax.data.formats.labels import CLASS_TEMPLATES
from unitok_jax.data.images.transforms import check_size
from unitok_jax.data.text import END_OF_TEXT, TextTokenizer
from unitok_jax.evaluation.metrics import zero_shot
from unitok_jax.models.functions import Functions
from unitok_jax.system.arrays import as_numpy
from unitok_jax.tokenizer import inputs
from unitok_jax.tokenizer.batching import Batcher, by_shape, fetch, in_order
from unitok_jax.tokenizer.compiled import METHODS, PROGRAMS, CompiledModel
from unitok_jax.weights import load as loading


class Tokenizer:
    """UniTok model with its weights. Methods take batches of any size and return NumPy arrays.

    A single image, text or its codes (K, N) is a batch of one, and so is its result. Images are
    arrays of NumPy, JAX or PyTorch, Pillow images, or lists of either: `encode` has their ranges.

    A batch is cut into pieces of `batch_size`; the remainder is padded to the next of
    `batch_sizes`, 1, 2, 4, ... images for each device. So a method compiles at most
    1 + log2(batch_size / devices) programs for an image size, rounded up. While the devices compute
    one piece the host prepares the next; uint8 images become floats on the devices. Threads may
    share a tokenizer. A pickled tokenizer holds its weights as NumPy arrays; unpickling puts them
    on the default device.

    Attributes:
      config: configuration saved with the weights; `precision`, not `model.dtype`, sets the
        precision of the computation.
      params: nested dict of arrays on the devices.
      functions: `Functions`, the methods without checks and batches, for use inside `jit`, `vmap`
        and `grad`, as in `tokenizer.functions.encode(tokenizer.params, images)`.
      precision: as given.
      image_size: (height, width) of the images the model was trained with.
      batch_size, batch_sizes: as above.
    """

    def __init__(
        self,
        config: ConfigDict,
        params,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        precision: str = "float32",
    ):
        """Builds a tokenizer from a configuration and parameters; most users call `load` instead.

        Args:
          config: configuration saved with the weights; `model` and `data` are read.
          params: nested dict of the generator's arrays.
          batch_size: images per call of the model, a multiple of the number of devices; by default
            1 for each device on a CPU, where larger batches are no faster, and 32 elsewhere.
          devices: devices of this process that share the images; by default one.
          precision: as for `load`.

        Raises:
          ValueError: a value that does not fit; the message names it.
        """
        self._devices = jax.local_devices()[:1] if devices is None else list(devices)
        batcher = Batcher(batch_size, self._devices)
        self.batch_size, self.batch_sizes = batcher.batch_size, batcher.sizes
        self.precision = precision
        model = config.model.to_dict()
        self.functions = Functions(model, precision, self._devices[0].platform)
        self.compiled = CompiledModel(self.functions, params, batcher)
        self.config, self.params = config, self.compiled.params
        self.image_size = check_size(config.data.image_size)
        self._text = TextTokenizer(config.model.text.context_length)

    def __repr__(self) -> str:
        millions = sum(leaf.size for leaf in jax.tree.leaves(self.params)) / 1e6
        books, rows = self.codebook_shape
        devices = {f"{device.platform}:{device.id}": None for device in self._devices}
        return (
            f"Tokenizer({self.config.model.size}, {millions:.1f} M parameters, "
            f"{self.image_size[0]}x{self.image_size[1]} px, {books} codebooks of {rows} rows, "
            f"{self.precision} on {', '.join(devices)})"
        )

    def __reduce__(self):
        each = self.batch_size // len(self._devices)
        params = jax.device_get(self.params)
        return Tokenizer, (self.config, params, each, None, self.precision)

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """Number of codebooks and rows of each, (K, V)."""
        model = self.config.model
        return model.num_codebooks, model.vocab_size // model.num_codebooks

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the weights and of the settings that codes depend on, 32 hexadecimal digits.

        Two tokenizers with the same hash give codes the same meaning, whatever file each was
        loaded from. The hash leaves out the precision of the computation, which changes some codes.
        """
        return weights_hash(self.config.model.to_dict(), self.params)

    def encode(self, images) -> Codes:
        """Encodes images to codes.

        Args:
          images: (B, H, W, 3) or (H, W, 3), uint8 or float in [-1, 1], bfloat16 too; a Pillow
            image of any mode; or a list of either, of one size. H and W are multiples of 16. Floats
            without a value below 0 that are not all equal look like [0, 1]: a warning, once.

        Returns:
          int32 (B, K, N) with the attribute `grid`, (H / 16, W / 16); N counts query tokens too.

        Raises:
          ValueError, TypeError: another shape, dtype or range, values that are not finite, or what
            `jit`, `vmap` or `grad` traces.
        """
        images = inputs.check_images(images)
        return Codes(self.compiled.run("encode", images), inputs.grid_of(images[0]))

    def encode_batches(self, batches: Iterable) -> Iterator[Codes]:
        """Encodes each of many batches as `encode` does, preparing one while another is computed.

        Every batch is padded to `batch_size`, so that a single program makes all codes and they do
        not depend on how the images are split into batches.

        Args:
          batches: batches of images as for `encode`, all of one shape, at most `batch_size` each.
        """

        def started():
            for images in batches:
                images = inputs.check_images(images)
                if not 1 <= len(images) <= self.batch_size:
                    raise ValueError(f"a batch of {len(images)} images: 1 to {self.batch_size} fit")
                yield self.compiled.start("encode", images, self.batch_size), images

        for codes, images in fetch(started()):
            yield Codes(codes[: len(images)], inputs.grid_of(images[0]))

    def encode_each(self, images: Iterable, window: int | None = None) -> Iterator[Codes]:
        """Encodes single images of any sizes, in order; images of one size share batches.

        Every size compiles its own programs: see `data.aspect_ratios` for few sizes.

        Args:
          images: (H, W, 3) each, otherwise as for `encode`; read at most 2 `window` ahead.
          window: number of images that may wait for others of their size; default 8 `batch_size`.

        Yields:
          int32 (1, K, N) with the attribute `grid`, for each image.

        Raises:
          ValueError, TypeError: an image of another shape, dtype or range, by its number from 0,
            after the codes of all before it.
        """
        window = 8 * self.batch_size if window is None else window
        if window < 1:
            raise ValueError(f"window={window} must be at least 1")
        failure = None

        def checked():
            nonlocal failure
            for index, image in enumerate(images):
                try:
                    image = inputs.check_image(image, index)
                except (ValueError, TypeError) as error:
                    failure = error
                    return
                yield image.copy()  # the image waits, and its owner may overwrite its memory

        def started():
            for group in by_shape(checked(), self.batch_size, window):
                numbers, rows = zip(*group, strict=True)
                yield (
                    self.compiled.start("encode", np.stack(rows)),
                    (numbers, inputs.grid_of(rows[0])),
                )

        codes = (
            (number, Codes(of_group[row : row + 1], grid))
            for of_group, (numbers, grid) in fetch(started())
            for row, number in enumerate(numbers)
        )
        yield from in_order(codes)
        if failure is not None:
            raise failure

    def decode(self, codes, grid: tuple[int, int] | None = None) -> np.ndarray:
        """Decodes codes to images.

        Args:
          codes: integers (B, K, N), or (K, N) of one image, in [0, V).
          grid: rows and columns; by default the grid that `encode` left on the codes, else a
            square.

        Returns:
          float32 (B, H, W, 3), clipped to [-1, 1].

        Raises:
          ValueError, TypeError: another shape, dtype or range, or a grid that does not fit.
        """
        grid = getattr(codes, "grid", None) if grid is None else grid
        codes = inputs.check_codes(codes, *self.codebook_shape)
        grid = inputs.check_grid(codes.shape[2] - self.config.model.num_query, grid)
        return self.compiled.run("decode", codes, grid)

    def encode_image(self, images) -> np.ndarray:
        """Encodes images, as for `encode`, to float32 (B, E) unit vectors, after the quantizer."""
        return self.compiled.run("encode_image", inputs.check_images(images))

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Encodes texts to float32 (B, E) unit vectors; longer texts are cut at context length."""
        rows = self.config.model.text.vocab_size
        if rows <= END_OF_TEXT:
            raise ValueError(
                f"this model's text tower has {rows} token ids, fewer than CLIP's tokenizer makes"
            )
        return self.compiled.run("encode_text", self._text(texts))

    def class_features(
        self, labels: Sequence[str], templates: Sequence[str] = CLASS_TEMPLATES
    ) -> np.ndarray:
        """Encodes names of classes to float32 (C, E) unit vectors, each the mean over templates.

        Args:
          labels: C different names.
          templates: sentences with one {} where the name goes.
        """
        return zero_shot.class_features(self.encode_text, labels, templates)

    def probabilities(self, images, class_features) -> np.ndarray:
        """Computes class probabilities, float32 (B, C), from images and `class_features`.

        Images are as for `encode`; see `classify`.
        """
        scale = float(np.exp(np.asarray(self.params["logit_scale"], np.float64)))
        return zero_shot.probabilities(self.encode_image(images), as_numpy(class_features), scale)

    def classify(
        self, images, labels: Sequence[str], templates: Sequence[str] = CLASS_TEMPLATES
    ) -> np.ndarray:
        """Classifies images zero-shot, after CLIP (arXiv 2103.00020, section 3.1).

        For many batches and the same labels, `class_features` once and `probabilities` of each
        batch give the same numbers.

        Args:
          images: as for `encode`.
          labels: C different names, at least two.
          templates: sentences with one {} where the name goes.

        Returns:
          float32 (B, C), the probability of each of the C classes; rows sum to 1.

        Raises:
          ValueError: labels or templates that are not as above, a text tower without CLIP's ids.
        """
        return self.probabilities(images, self.class_features(labels, templates))

    def reconstruct(self, images) -> np.ndarray:
        """Returns `decode(encode(images))`, float32 (B, H, W, 3) in [-1, 1]."""
        return self.decode(self.encode(images))

    def save(self, path) -> None:
        """Writes the weights: a .safetensors or .pth file of the public layout, or a folder."""
        loading.write(path, self.config, self.params)

    def compile(
        self,
        sizes: Iterable | None = None,
        methods: Sequence[str] = ("encode", "decode"),
        batch_sizes: Sequence[int] | None = None,
    ) -> None:
        """Compiles and runs once the programs of later calls, so that no request waits for them.

        Args:
          sizes: image sizes, n or (height, width) each; by default the model's own.
          methods: some of `METHODS`.
          batch_sizes: some of the attribute `batch_sizes`, by default all.

        Raises:
          ValueError: another size or method, or more than are kept (`PROGRAMS`).
        """
        sizes = [self.image_size] if sizes is None else list(sizes)
        batch_sizes = self.batch_sizes if batch_sizes is None else batch_sizes
        choices = {"methods": (methods, METHODS), "batch_sizes": (batch_sizes, self.batch_sizes)}
        for name, (given, known) in choices.items():
            if unknown := set(given) - set(known):
                raise ValueError(f"{name}={sorted(unknown)}: choose from {known}")
        if len(sizes) * len(methods) > PROGRAMS:
            raise ValueError(f"{len(sizes)} sizes x {len(methods)} methods are over {PROGRAMS}")
        for size, count in itertools.product(sizes, batch_sizes):
            images = np.zeros((count, *check_size(size, STRIDE, "sizes"), 3), np.uint8)
            grid = inputs.grid_of(images[0])
            tokens = self.config.model.num_query + math.prod(grid)
            codes = Codes(np.zeros((count, self.codebook_shape[0], tokens), int), grid)
            arguments = {"decode": codes, "encode_text": [""] * count}
            for method in methods:
                getattr(self, method)(arguments.get(method, images))


def load(
    path,
    batch_size: int | None = None,
    *,
    precision: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    weights: str | None = None,
    **heads: int,
) -> Tokenizer:
    """Loads a tokenizer; its configuration comes with the weights.

    Args:
      path: a workdir (its newest checkpoint), a folder `checkpoints/<step>` in one, a folder for
        the Hugging Face hub, `hf://owner/name` or `hf://owner/name@revision` there, or a .pth, .pt
        or .safetensors file of the public layout.
      batch_size, devices: as for `Tokenizer`.
      precision: of the computation, whatever the weights were trained with. 'float32': products of
        the highest precision on every platform. 'bfloat16_3x' (TPU) and 'tensorfloat32' (NVIDIA
        GPU): float32 whose products are less precise. 'bfloat16': of encoder, decoder and text
        tower. Projections, quantizer and features are float32 always.
        `docs/guides/use_from_python.md` has what each costs and changes.
      weights: for a run's checkpoint: 'ema', the average, or 'raw', the trained weights; by default
        as evaluation, the average if there is one.
      **heads: `heads`, `quant_heads` and `text_heads`, needed only for a file without a
        configuration: every other size follows from the shapes. Checked if the file has them.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: not a checkpoint, a checkpoint that does not fit its configuration, or a precision
        that is unknown or not supported by the devices.
    """
    config, params = loading.read(path, weights, **heads)
    return Tokenizer(config, params, batch_size, devices, precision)
