"""The user's API: images to codes and back, and features of images and texts."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from unitok_jax import convert
from unitok_jax.data import text as captions
from unitok_jax.data.labelled import CLASS_TEMPLATES
from unitok_jax.data.transforms import check_size
from unitok_jax.evaluate import zero_shot
from unitok_jax.models.unitok import abstract_model
from unitok_jax.models.vitamin import STRIDE
from unitok_jax.stored import weights_hash


class Codes(np.ndarray):
    """int32 (B, K, N) codes that remember their grid, so that `decode` needs nothing else.

    `grid` is (rows, columns) of image tokens. It survives slicing along B; any other array can be
    decoded by passing `grid` to `decode`.
    """

    grid: tuple[int, int] | None

    def __new__(cls, codes, grid: tuple[int, int]):
        """View of an int array with a grid."""
        out = np.asarray(codes, np.int32).view(cls)
        out.grid = tuple(grid)
        return out

    def __array_finalize__(self, source):
        self.grid = getattr(source, "grid", None)

    def __reduce__(self):
        # ndarray's own pickling would lose the grid between processes.
        return Codes, (np.asarray(self), self.grid)


class Tokenizer:
    """A UniTok with its weights. Every method takes batches of any size and returns NumPy arrays.

    A batch is cut into pieces of `batch_size` and the last piece is padded, so that each method
    compiles once for an image size, whatever the batches are.
    """

    def __init__(
        self,
        config: ConfigDict,
        params,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Most users call `load` instead.

        Args:
          config: as saved with the weights; `model` and `data` are read.
          params: nested dict of the generator's arrays.
          batch_size: images that go through the model at once, a multiple of the devices; by
            default 1 for each device on a CPU, where more gain nothing, and 32 elsewhere.
          devices: of this process, that share the images; by default one.
        """
        devices = jax.local_devices()[:1] if devices is None else devices
        if batch_size is None:
            batch_size = (1 if jax.default_backend() == "cpu" else 32) * len(devices)
        if batch_size < 1 or batch_size % len(devices):
            raise ValueError(
                f"batch_size={batch_size} must be a positive multiple of the {len(devices)} devices"
            )
        self.config, self.batch_size = config, batch_size
        self.image_size = check_size(config.data.image_size)
        mesh = Mesh(np.array(devices), ("batch",))
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self.params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._text = captions.Tokenizer(config.model.text.context_length)
        graph, _ = abstract_model(config.model.to_dict())

        def method(name):
            return lambda params, *args: getattr(nnx.merge(graph, params), name)(*args)

        def decode(params, codes, grid):
            return jnp.clip(nnx.merge(graph, params).decode(codes, grid), -1.0, 1.0)

        self._encode, self._encode_image, self._encode_text = (
            jax.jit(method(name)) for name in ("encode", "encode_image", "encode_text")
        )
        self._decode = jax.jit(decode, static_argnums=2)

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """(K, V): the number of codebooks and the rows of each."""
        model = self.config.model
        return model.num_codebooks, model.vocab_size // model.num_codebooks

    @functools.cached_property
    def hash(self) -> str:
        """32 hexadecimal digits of the weights and of how they are used.

        Codes mean the same to two tokenizers of one hash, whatever file each was loaded from. The
        dtype of the computation, which moves a few codes, is not part of it.
        """
        return weights_hash(self.config.model.to_dict(), self.params)

    def encode(self, images) -> Codes:
        """Images to codes.

        Args:
          images: (B, H, W, 3), float in [-1, 1] or uint8; H and W multiples of 16.

        Returns:
          int32 (B, K, N) with the attribute `grid`, (H / 16, W / 16); N counts query tokens too.

        Raises:
          ValueError, TypeError: another shape, dtype or range.
        """
        images = _images(images)
        grid = images.shape[1] // STRIDE, images.shape[2] // STRIDE
        return Codes(self._batched(self._encode, images), grid)

    def encode_batches(self, batches: Iterable) -> Iterator[Codes]:
        """As `encode` of each of many batches, with one in work while the next is prepared.

        Args:
          batches: of images as for `encode`, all of one shape, at most `batch_size` each.
        """
        pending = None
        for images in batches:
            images = _images(images)
            if len(images) > self.batch_size:
                raise ValueError(f"a batch of {len(images)} images is over {self.batch_size}")
            started = self._encode(self.params, self._place(images))
            if pending is not None:
                yield self._finish(*pending)
            pending = started, len(images), images.shape
        if pending is not None:
            yield self._finish(*pending)

    @staticmethod
    def _finish(codes, count, shape) -> Codes:
        return Codes(np.asarray(codes)[:count], (shape[1] // STRIDE, shape[2] // STRIDE))

    def decode(self, codes, grid: tuple[int, int] | None = None) -> np.ndarray:
        """Codes to images.

        Args:
          codes: integers (B, K, N) in [0, V).
          grid: rows and columns; by default the grid that `encode` left on the codes, else a
            square.

        Returns:
          float32 (B, H, W, 3), clipped to [-1, 1].

        Raises:
          ValueError, TypeError: another shape, dtype or range, or a grid that does not fit.
        """
        grid = getattr(codes, "grid", None) if grid is None else grid
        codes = np.asarray(codes)
        books, rows = self.codebook_shape
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"codes have dtype {codes.dtype}; they are integers in [0, {rows})")
        if codes.ndim != 3 or codes.shape[1] != books:
            raise ValueError(f"codes of shape {codes.shape}: expected (B, {books}, N)")
        if codes.size and (codes.min() < 0 or codes.max() >= rows):
            raise ValueError(
                f"codes reach from {codes.min()} to {codes.max()}; this tokenizer's are in "
                f"[0, {rows}): were they made by another one?"
            )
        grid = self._grid(codes.shape[2], grid)
        return self._batched(lambda p, c: self._decode(p, c, grid), codes.astype(np.int32))

    def encode_image(self, images) -> np.ndarray:
        """Images as for `encode` -> float32 (B, E) unit vectors, after the quantizer."""
        return self._batched(self._encode_image, _images(images))

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> float32 (B, E) unit vectors; what passes the context length is cut off."""
        rows = self.config.model.text.vocab_size
        if rows <= captions.END_OF_TEXT:
            raise ValueError(
                f"this model's text tower has {rows} token ids, fewer than CLIP's tokenizer makes"
            )
        return self._batched(self._encode_text, self._text(texts))

    def class_features(
        self, labels: Sequence[str], templates: Sequence[str] = CLASS_TEMPLATES
    ) -> np.ndarray:
        """Names of classes -> float32 (C, E) unit vectors, each the mean over templates.

        Args:
          labels: C different names.
          templates: sentences with one {} where the name goes.
        """
        return zero_shot.class_features(self.encode_text, labels, templates)

    def probabilities(self, images, class_features) -> np.ndarray:
        """Images as for `encode`, and `class_features` -> float32 (B, C); see `classify`."""
        scale = float(np.exp(np.asarray(self.params["logit_scale"], np.float64)))
        return zero_shot.probabilities(self.encode_image(images), class_features, scale)

    def classify(
        self, images, labels: Sequence[str], templates: Sequence[str] = CLASS_TEMPLATES
    ) -> np.ndarray:
        """Which class each image shows, after CLIP (arXiv 2103.00020, section 3.1).

        For many batches and the same labels, `class_features` once and `probabilities` of each
        batch give the same numbers.

        Args:
          images: as for `encode`.
          labels: C different names, at least two.
          templates: sentences with one {} where the name goes.

        Returns:
          float32 (B, C), the probability of each class among these; rows sum to 1.

        Raises:
          ValueError: labels or templates that are not as above, a text tower without CLIP's ids.
        """
        return self.probabilities(images, self.class_features(labels, templates))

    def reconstruct(self, images) -> np.ndarray:
        """`decode(encode(images))`: float32 (B, H, W, 3) in [-1, 1]."""
        return self.decode(self.encode(images))

    def save(self, path) -> None:
        """Writes the weights: a .safetensors or .pth file of the public layout, or a folder."""
        convert.write(path, self.config, self.params)

    def _grid(self, tokens, grid):
        query = self.config.model.num_query
        cells = tokens - query
        if grid is None:
            side = math.isqrt(max(cells, 0))
            if cells < 1 or side * side != cells:
                raise ValueError(
                    f"codes hold {cells} image tokens, which are no square; pass "
                    "grid=(rows, columns)"
                )
            return side, side
        grid = tuple(int(n) for n in grid)
        if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != cells:
            raise ValueError(f"grid={grid} does not have the {cells} image tokens of the codes")
        return grid

    def _batched(self, function, array):
        size, count = self.batch_size, len(array)
        if not count:
            raise ValueError("the batch is empty")
        outputs = []
        for start in range(0, count, size):
            outputs.append(function(self.params, self._place(array[start : start + size])))
        return np.concatenate([np.asarray(out) for out in outputs])[:count]

    def _place(self, piece) -> jax.Array:
        """Rows on the devices that share them, filled up to a whole batch."""
        pad = [(0, self.batch_size - len(piece))] + [(0, 0)] * (piece.ndim - 1)
        return jax.device_put(np.pad(piece, pad), self._split)


def load(
    path,
    batch_size: int | None = None,
    *,
    dtype: str | None = None,
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
      dtype: of the computation, 'float32' or 'bfloat16'; by default the checkpoint's.
      weights: of a run's checkpoint: 'ema', the average, or 'raw', the weights that were trained;
        by default what evaluation uses, the average if there is one.
      **heads: `heads`, `quant_heads` and `text_heads`, needed only for a file that carries no
        configuration: shapes tell every size but these. Where the file has them they are checked.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: not a checkpoint, or one that does not fit its configuration.
    """
    config, params = convert.read(path, weights, **heads)
    if dtype is not None:
        config.model.dtype = dtype
    return Tokenizer(config, params, batch_size, devices)


def _images(images) -> np.ndarray:
    """(B, H, W, 3) uint8 or float -> float32 in [-1, 1], checked."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images of shape {images.shape}: expected (B, H, W, 3); a single image is images[None]"
        )
    check_size(images.shape[1:3], STRIDE, "the image size")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images have dtype {images.dtype}; pass uint8, or float in [-1, 1]")
    low, high = images.min(initial=0), images.max(initial=0)
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"float images reach from {low:.4g} to {high:.4g}; they must be in [-1, 1]: pass uint8 "
            "images, or images / 127.5 - 1"
        )
    return images.astype(np.float32)
