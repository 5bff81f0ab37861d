"""Evaluation pass of a tokenizer over a source of images: inputs of all measures, in one pass.

Training and the command `unitok evaluate` use the same pass.
"""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unitok_jax.codes import STRIDE
from unitok_jax.data.health import Tally
from unitok_jax.data.pipeline import eval_batches
from unitok_jax.data.records import Source
from unitok_jax.evaluation.metrics import ssim
from unitok_jax.evaluation.metrics.agreement import CodeAgreement
from unitok_jax.evaluation.metrics.codebook import CodebookUse
from unitok_jax.evaluation.metrics.frechet import FeatureMoments
from unitok_jax.evaluation.metrics.reconstruction import Reconstruction
from unitok_jax.models.functions import Functions
from unitok_jax.models.images import squared_error, to_float
from unitok_jax.models.quantizers.base import codebook_counts
from unitok_jax.runtime import sharding
from unitok_jax.weights import pretrained


def _in_full(measure):
    """Wraps `measure` to compute float32 products in full precision, as published figures are."""

    @functools.wraps(measure)
    def traced(*args, **options):
        with jax.default_matmul_precision("highest"):
            return measure(*args, **options)

    return traced


class Compared(NamedTuple):
    """Images and their reconstructions, rounded to 8 bits; each (B, H, W, 3) float32."""

    images: jax.Array  # in [-1, 1]
    rebuilt: jax.Array
    image_levels: jax.Array  # in [0, 255]
    rebuilt_levels: jax.Array


class Measure(NamedTuple):
    """Measure of each image beside its reconstruction, (B,) float32."""

    compute: Callable  # of `Compared`, and of the network if there is one
    network: str = ""  # kind that it needs, 'lpips'; measured where that is loaded


MEASURES = {
    "squared_error": Measure(lambda pair: squared_error(pair.rebuilt, pair.images)),
    "ssim": Measure(lambda pair: _ssim(pair, "gaussian")),
    "ssim_uniform": Measure(lambda pair: _ssim(pair, "uniform")),
    "lpips": Measure(lambda pair, lpips: lpips(pair.rebuilt, pair.images), network="lpips"),
}
"""Measures by name; `card.pages` says how a card shows them."""


def _ssim(pair: Compared, window):
    return ssim.ssim(pair.rebuilt_levels, pair.image_levels, window)


class Samples:
    """Samples for pictures: the first images of a pass.

    Attributes:
      images, reconstructions: (n, H, W, 3) uint8.
      codes: (n, K, N) int32.
    """

    def __init__(self, parts: list[dict[str, np.ndarray]]):
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        self.images, self.reconstructions = joined["image"], joined["rebuilt"]
        self.codes = joined["codes"]


@dataclasses.dataclass
class EvaluationResult:
    """Results of one evaluation pass: float64, in source order, identical on every process."""

    reconstruction: Reconstruction = dataclasses.field(default_factory=Reconstruction)
    codebooks: CodebookUse = dataclasses.field(default_factory=CodebookUse)
    originals: FeatureMoments = dataclasses.field(default_factory=FeatureMoments)
    rebuilt: FeatureMoments = dataclasses.field(default_factory=FeatureMoments)
    agreement: CodeAgreement = dataclasses.field(default_factory=CodeAgreement)
    image_features: np.ndarray | None = None  # (N, E)
    logits: np.ndarray | None = None  # (N, 1008), Inception's for the reconstructions
    positions: np.ndarray | None = None  # (N,) in the source, without skipped images
    digest: str = ""  # sha256 of the crc32 of every image's pixels, in order
    samples: Samples | None = None
    left_out: Tally = dataclasses.field(default_factory=Tally)  # images skipped by this process
    seconds: float = 0.0  # duration of the pass
    waited: float = 0.0  # seconds of the pass spent waiting for input


class Evaluator:
    """Compiled programs of an evaluation pass over a mesh."""

    def __init__(
        self,
        model: Mapping,
        mesh: Mesh,
        networks: Mapping[str, str],
        precision: str = "float32",
    ):
        """Sets up the programs; each compiles at its first call.

        Args:
          model: `config.model`.
          mesh: mesh of the devices that share every batch.
          networks: networks to measure with, 'lpips' or 'inception' -> compute dtype.
          precision: precision of the model, as for `tokenizer.load`.
        """
        self.mesh, self.networks = mesh, dict(networks)
        self._rows = model["vocab_size"] // model["num_codebooks"]
        self._graphs = {kind: pretrained.abstract(kind, d)[0] for kind, d in networks.items()}
        replicated, by_rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        platform = mesh.devices.flat[0].platform

        # Separate programs, the same as a `Tokenizer`'s, so that measures are of its results.
        functions = Functions(model, precision, platform)
        self._to_float = jax.jit(to_float, out_shardings=by_rows)
        self._encode = jax.jit(functions.encode, out_shardings=by_rows)
        self._decode = jax.jit(functions.decode, static_argnums=2, out_shardings=by_rows)
        self._features = jax.jit(functions.features, out_shardings=replicated)
        self._text = jax.jit(functions.encode_text, out_shardings=replicated)
        self._encode_by_dtype = {
            name: jax.jit(Functions(model, name, platform).encode, out_shardings=replicated)
            for name in ("float32", "bfloat16")
        }
        self._measure = jax.jit(
            self._measures, static_argnames="originals", out_shardings=(replicated, by_rows)
        )
        self._pool3 = jax.jit(self._inception_features, out_shardings=replicated)
        self._mark = jax.jit(_marks, out_shardings=replicated)
        self._steps = {
            "all": self.step,
            "rebuilt": functools.partial(self.step, originals=False),
            "originals": self._original_features,
            "features": self._image_features,
            "dtypes": self._codes_by_dtype,
        }
        # The first rows of sharded arrays, replicated on every process.
        self._first_rows = jax.jit(
            lambda arrays, count: jax.tree.map(lambda x: x[:count], arrays),
            static_argnums=1,
            out_shardings=replicated,
        )

    def step(self, params, networks, batch, *, originals: bool = True) -> tuple[dict, dict]:
        """Measures one batch; reconstructions are rounded to 8 bits before they are measured.

        Args:
          params: parameters of the tokenizer.
          networks: parameters of the networks to measure with, {'lpips': ..., 'inception': ...}.
          batch: {'image': (B, H, W, 3) uint8, 'mask': (B,) bool, 'crc32': (B,) uint32}.
          originals: True to compute Inception's features of the originals too.

        Returns:
          Outputs of every image, for the host: 'mask', 'crc32', 'squared_error' of images in
          [-1, 1] and the others of `MEASURES`, 'image_features' (B, E), with Inception 'pool3' and
          'logits' of the reconstruction and 'pool3_original'; and 'counts' (K, V). Outputs that
          stay on the devices: 'rebuilt' (B, H, W, 3) uint8 and 'codes' (B, K, N) int32.
        """
        images = self._to_float(batch["image"])
        codes = self._encode(params, images)
        grid = tuple(side // STRIDE for side in images.shape[1:3])
        reconstruction = self._decode(params, codes, grid)
        out, rebuilt = self._measure(
            networks, batch, images, codes, reconstruction, originals=originals
        )
        out["image_features"] = self._features(params, codes)
        return out, {"rebuilt": rebuilt, "codes": codes}

    @_in_full
    def _measures(self, networks, batch, images, codes, reconstruction, originals):
        levels = jnp.rint((reconstruction + 1) * 127.5)
        rebuilt = levels.astype(jnp.uint8)
        pair = Compared(images, to_float(rebuilt), batch["image"].astype(jnp.float32), levels)
        loaded = {kind: nnx.merge(graph, networks[kind]) for kind, graph in self._graphs.items()}
        out = _marks(batch) | {"counts": codebook_counts(codes, self._rows, batch["mask"])}
        for name, (compute, kind) in MEASURES.items():
            if not kind or kind in loaded:
                out[name] = compute(pair, loaded[kind]) if kind else compute(pair)
        if "inception" in loaded:
            inception = loaded["inception"]
            features = inception(rebuilt)
            out |= {"pool3": features.pool3, "logits": features.logits_unbiased}
            if originals:
                out["pool3_original"] = inception(batch["image"]).pool3
        return out, rebuilt

    @_in_full
    def _inception_features(self, params, images):
        return nnx.merge(self._graphs["inception"], params)(images).pool3

    def _original_features(self, params, networks, batch):
        out = self._mark(batch)
        return out | {"pool3_original": self._pool3(networks["inception"], batch["image"])}, {}

    def _image_features(self, params, networks, batch):
        codes = self._encode(params, self._to_float(batch["image"]))
        return self._mark(batch) | {"image_features": self._features(params, codes)}, {}

    def _codes_by_dtype(self, params, networks, batch):
        images, out = self._to_float(batch["image"]), self._mark(batch)
        for name, encode in self._encode_by_dtype.items():
            out[f"codes_{name}"] = encode(params, images)
        return out, {}

    def batch_size(self, wanted: int, count: int) -> int:
        """Returns a global batch size: a multiple of the devices, not much over `count` images."""
        return sharding.rounded_up(min(wanted, count), self.mesh.size)

    def run(
        self,
        params,
        networks: Mapping,
        source: Source,
        data,
        batch_size: int,
        *,
        show: int = 0,
        kind: str = "all",
        max_left_out: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> EvaluationResult:
        """Measures all images of a source, resized and centre-cropped. All processes call it.

        Args:
          params, networks: as for `step`; on the devices.
          source: source of at least one image.
          data: `config.data`.
          batch_size: global batch size, a multiple of the number of devices.
          show: number of first images to return as `EvaluationResult.samples`.
          kind: 'all'; 'rebuilt', without Inception's features of the originals; 'originals', these
            alone; 'features', image features alone; 'dtypes', codes in float32 and bfloat16, which
            depend on the images per device: one image per device gives the same codes on any
            number of devices.
          max_left_out: maximum of unusable images, which are skipped; beyond the maximum the pass
            ends early, on all processes at the same batch. None: an unusable image is an error.
          on_batch: called with the number of images of each batch once the batch is measured.

        Raises:
          SampleError, OSError: an image cannot be used; the message names it.
        """
        leave_out = max_left_out is not None
        networks = {name: networks[name] for name in self.networks}
        result = EvaluationResult()
        rows = {"image_features": [], "logits": [], "crc32": [], "positions": []}
        started, sampled, sample_count, unusable = time.perf_counter(), [], 0, 0
        outputs = self._outputs(params, networks, source, data, batch_size, kind, leave_out, result)
        with contextlib.closing(outputs):
            for number, (out, on_device) in enumerate(outputs):
                mask = out["mask"]
                count = min(batch_size, len(source) - number * batch_size)
                unusable += count - int(mask.sum())
                self._add(result, out, mask)
                if on_batch is not None:
                    on_batch(count)
                rows["positions"].append(number * batch_size + np.flatnonzero(mask))
                for key in rows.keys() & out.keys():
                    rows[key].append(out[key][mask])
                missing = min(show - sample_count, int(mask.sum()))
                if missing > 0:
                    # Masked rows lie between the others.
                    end = int(np.flatnonzero(mask)[missing - 1]) + 1
                    fetched = jax.device_get(self._first_rows(on_device, end))
                    sampled.append({key: value[mask[:end]] for key, value in fetched.items()})
                    sample_count += missing
                if leave_out and unusable > max_left_out:
                    break
        result.samples = Samples(sampled) if sampled else None
        joined = {key: np.concatenate(value) for key, value in rows.items() if value}
        result.positions, result.image_features = joined["positions"], joined.get("image_features")
        result.logits = joined.get("logits")
        result.digest = hashlib.sha256(joined["crc32"].astype("<u4").tobytes()).hexdigest()
        result.seconds = time.perf_counter() - started
        return result

    @staticmethod
    def _add(result: EvaluationResult, out, mask) -> None:
        if "squared_error" in out:
            measured = {name: out[name] for name in MEASURES if name in out}
            result.reconstruction.update(mask, **measured)
            result.codebooks.update(out["counts"])
        if "codes_float32" in out:
            result.agreement.update(out["codes_float32"], out["codes_bfloat16"], mask)
        for key, moments in (("pool3", result.rebuilt), ("pool3_original", result.originals)):
            if key in out:
                moments.update(out[key], mask)

    def _outputs(
        self, params, networks, source, data, batch_size, kind, leave_out, result
    ) -> Iterator[tuple[dict, dict]]:
        """Yields the fetched outputs of every batch, and the outputs that stay on the devices.

        The next batch is dispatched before the outputs of the last one are fetched, so that the
        devices never wait for the host's work on these outputs.
        """
        rows = sharding.local_rows(self.mesh, batch_size)
        batches = eval_batches(source, data, batch_size, rows, leave_out)
        pending = None
        with contextlib.closing(batches):
            for _ in range(0, len(source), batch_size):
                waiting_since = time.perf_counter()
                read = next(batches)
                result.waited += time.perf_counter() - waiting_since
                if leave_out:
                    result.left_out.update([read["notes"].skipped])
                read = {key: read[key] for key in ("image", "mask", "crc32")}
                batch = sharding.shard_batch(read, self.mesh)
                out, on_device = self._steps[kind](params, networks, batch)
                if pending is not None:
                    yield jax.device_get(pending[0]), pending[1]
                pending = out, on_device | {"image": batch["image"]}
        yield jax.device_get(pending[0]), pending[1]

    def encode_text(self, params, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        """Encodes token ids (T, L) to unit vectors (T, E), in batches of one shape."""
        size = sharding.rounded_up(batch_size, self.mesh.size)
        padded = np.pad(tokens, ((0, -len(tokens) % size), (0, 0)))
        chunks = [
            jax.device_get(self._text(params, sharding.shard_whole(chunk, self.mesh)))
            for chunk in padded.reshape(-1, size, tokens.shape[1])
        ]
        return np.concatenate(chunks)[: len(tokens)]


def _marks(batch):
    return {key: batch[key] for key in ("mask", "crc32")}


def digest(params) -> str:
    """Hashes the values of a network on the host, in order, to 32 hexadecimal digits."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        hashed.update(np.ascontiguousarray(leaf))
    return hashed.hexdigest()[:32]
