"""The teacher's side of a training step: its features, the heads that predict them, their loss.

Relations between images and texts as in AToken (arXiv 2509.14476), features of tokens as in
VFMTok (arXiv 2507.08441) and REPA (arXiv 2410.06940).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax import trees
from unitok_jax.codes import STRIDE
from unitok_jax.data.teacher_features import DTYPES
from unitok_jax.models.layers import Keys
from unitok_jax.models.pretrained.teachers import KINDS, input_size
from unitok_jax.models.token_head import TokenHead
from unitok_jax.models.vitamin import SIZES
from unitok_jax.tokenizer import losses
from unitok_jax.training import optim
from unitok_jax.weights import teachers

HEADS = "teacher_heads"
"""Name of the heads' parameters beside the parts of the model."""


class Teaching:
    """The teacher's part of a training step as pure functions, closed over `config.teacher`."""

    def __init__(self, teacher, loss, *, size: str, dtype: str, stream: str):
        """Builds the functions.

        Args:
          teacher: `config.teacher`; of `features` only that it is set counts.
          loss: `config.loss`, of which `teacher_token` or `teacher_relation` is above 0.
          size: `model.size`, whose trunk makes the tokens.
          dtype: compute dtype of the teacher and of the heads.
          stream: dtype of the teacher's residual streams, unless `dtype` is wider.
        """
        self.kind, self.relation = teacher.kind, bool(loss.teacher_relation)
        self.temperature, self.stored = teacher.temperature, bool(teacher.features)
        self._shallow = teacher.shallow if loss.teacher_token else 0
        stream = jnp.promote_types(dtype, stream)
        self._graph, self.abstract = teachers.abstract(self.kind, dtype, stream, self.relation)
        self._names, self._heads = (), None
        if loss.teacher_token:
            self._names = ("deep", "shallow") if self._shallow else ("deep",)
            widths = SIZES[size].width, KINDS[self.kind].image.width
            self._make = lambda rngs: _Heads(self._names, *widths, jnp.dtype(dtype), rngs)
            self._heads = nnx.graphdef(nnx.eval_shape(lambda: self._make(Keys(0))))
        self.names = (*self._names, *(("image", "text") if self.relation else ()))

    def init(self, key: jax.Array, optimizer) -> optim.Trainable | None:
        """Initialises the heads and their optimiser; None without a loss of tokens."""
        if self._heads is None:
            return None
        params = nnx.to_pure_dict(nnx.state(self._make(Keys(key))))
        return optim.Trainable(params, optimizer.init(params))

    def arrays(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the targets of one image of a size, and of one text, by name."""
        kind, found = KINDS[self.kind], {}
        tokens = (size[0] // STRIDE) * (size[1] // STRIDE)
        found |= {name: (tokens, kind.image.width) for name in self._names}
        if self.relation:
            found |= dict.fromkeys(("image", "text"), (kind.text.embed_dim,))
        return found

    def batch_shapes(self, count: int, size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of stored targets of `count` images of a size, by name in a batch."""
        return {
            f"teacher_{name}": jax.ShapeDtypeStruct((count, *shape), DTYPES[name])
            for name, shape in self.arrays(size).items()
        }

    def settings(self, data) -> dict[str, Any]:
        """Returns what stored features of a `data` config depend on, as JSON values by key."""
        found = {"teacher.kind": self.kind, "data.image_size": list(data.image_size)}
        if self._shallow:
            found["teacher.shallow"] = self._shallow
        if self.relation:
            found["data.context_length"] = data.context_length
        return found

    def targets(self, params, batches: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Computes what is to be learned from every micro-batch; or takes it, where it is stored.

        Args:
          params: parameters of the teacher; not read where its features are stored.
          batches: {'image': (M, b, H, W, 3) float32 in [-1, 1], 'text': (M, b, L) int32}, and
            stored features.

        Returns:
          'teacher_deep' and 'teacher_shallow' (M, b, N, D), 'teacher_image' and 'teacher_text'
          (M, b, E), those of them that a loss takes; float32.
        """
        if self.stored:
            names = [f"teacher_{name}" for name in self.names]
            return {name: batches[name].astype(jnp.float32) for name in names}

        def one(batch):
            found = self.of_images(params, batch["image"])
            if self.relation:
                found |= {"text": self.of_texts(params, batch["text"])}
            return {f"teacher_{name}": x for name, x in found.items()}

        if len(batches["image"]) == 1:  # a loop on a CPU would run on one core
            first = one(jax.tree.map(lambda x: x[0], batches))
            return jax.tree.map(lambda x: x[None], first)
        return jax.lax.map(one, batches)

    def of_images(self, params, images: jax.Array) -> dict[str, jax.Array]:
        """Computes 'deep', 'shallow' and 'image' of images (b, H, W, 3), as `targets`."""
        teacher = nnx.merge(self._graph, params)
        found, pooled = teacher.tokens(self._resized(images), self._shallow)
        found = {name: found[name] for name in self._names}
        return found | ({"image": teacher.image_vectors(pooled)} if self.relation else {})

    def of_texts(self, params, text: jax.Array) -> jax.Array:
        """Computes 'text' of token ids (b, L), as `targets`."""
        return nnx.merge(self._graph, params).text_vectors(text)

    def token_loss(self, heads, tokens: jax.Array, batch) -> jax.Array:
        """Computes the loss of the heads' predictions, a mean over the teacher's depths.

        Args:
          heads: parameters of the heads.
          tokens: (B, N, D) tokens behind the quantizer, those of the image last.
          batch: targets of these images.
        """
        predicted = nnx.merge(self._heads, heads)(tokens)
        found = [
            losses.token_loss(x[:, -batch[f"teacher_{name}"].shape[1] :], batch[f"teacher_{name}"])
            for name, x in predicted.items()
        ]
        return sum(found) / len(found)

    def _resized(self, images):
        grid = images.shape[1] // STRIDE, images.shape[2] // STRIDE
        size = input_size(KINDS[self.kind], grid)
        if images.shape[1:3] == size:
            return images
        shape = (len(images), *size, images.shape[3])
        return jax.image.resize(images, shape, "cubic", antialias=True)


def check_taught(params, frozen: Sequence[str], weight: float) -> None:
    """Checks that a loss of tokens reaches more than its own heads.

    Args:
      params: parameters of the model, or their shapes.
      frozen: `optim.frozen`.
      weight: `loss.teacher_token`, above 0.

    Raises:
      ValueError: all that makes tokens is frozen, but for the rows of codebooks, which get no
        gradient from behind.
    """
    parts = ("encoder", "quant_proj", "post_quant_proj")
    _, trainable = trees.split(params, frozen, "optim.frozen")
    if not trainable.keys() & set(parts):
        raise ValueError(
            f"optim.frozen={tuple(frozen)} keeps all that loss.teacher_token={weight} teaches, and "
            f"its heads would learn alone: leave one of {', '.join(f'{part}.*' for part in parts)} "
            "out of optim.frozen, or set loss.teacher_token=0"
        )


class _Heads(nnx.Module):
    """One `TokenHead` for each depth of the teacher."""

    def __init__(self, names, inputs, width, dtype, rngs):
        for name in names:
            setattr(self, name, TokenHead(inputs, width, dtype=dtype, rngs=rngs))
        self.names = names

    def __call__(self, tokens: jax.Array) -> dict[str, jax.Array]:
        return {name: getattr(self, name)(tokens) for name in self.names}
