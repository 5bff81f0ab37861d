"""Text tower of the tokenizer that made the codes, for prompts."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.data.text import END_OF_TEXT
from unitok_jax.models.text_encoder import abstract_tower


class TextStates:
    """Features of texts: the states of all tokens of a CLIP text tower, after its last norm."""

    def __init__(self, model: Mapping[str, Any], ours: Mapping[str, Any]):
        """Builds the tower's graph, without parameters.

        Args:
          model: `config.model` of the tokenizer.
          ours: `config.model` of the generator: its dtype is computed in.

        Raises:
          ValueError: the tower's states do not fit the generator, or its tokens are not CLIP's.
        """
        text = model["text"]
        for key, value in (("text_tokens", "context_length"), ("text_features", "width")):
            if ours[key] != text[value]:
                raise ValueError(
                    f"model.{key}={ours[key]}, and the text tower of data.tokenizer has "
                    f"model.text.{value}={text[value]}; set model.{key}={text[value]}"
                )
        if text["vocab_size"] <= END_OF_TEXT:
            raise ValueError(
                f"the text tower of data.tokenizer has {text['vocab_size']} token ids, fewer than "
                "CLIP's tokenizer makes"
            )
        self._graph, _ = abstract_tower(model, ours["dtype"])

    def __call__(self, params, text: jax.Array) -> dict[str, jax.Array]:
        """Computes the features of texts.

        Args:
          params: of the tower, `params['text_encoder']` of the tokenizer.
          text: (B, T) token ids: start, caption, end, zeros.

        Returns:
          'features' (B, T, F) float32, those of a text at the end and zeros before; 'valid' (B, T)
          bool, where there are any; 'null' (B,) bool, True for a text without a word.
        """
        states = nnx.merge(self._graph, params).states(text).astype(jnp.float32)
        length = text.shape[1]
        last = text.argmax(axis=-1)[:, None]  # the end has the largest id
        place = jnp.arange(length) - (length - 1) + last
        valid = place >= 0
        states = jnp.take_along_axis(states, jnp.maximum(place, 0)[..., None], axis=1)
        features = jnp.where(valid[..., None], states, 0)
        return {"features": features, "valid": valid, "null": last[:, 0] < 2}
