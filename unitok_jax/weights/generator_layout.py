"""Table of the release's layout of a generator's weights, for `torch_layout`."""

from collections.abc import Mapping

import numpy as np

_BLOCKS = (
    (r"attention\.qkv\.kernel", "attention.wqkv.weight", "linear"),
    (r"attention\.out\.kernel", "attention.wo.weight", "linear"),
    (r"mlp\.gate\.kernel", "feed_forward.w1.weight", "linear"),
    (r"mlp\.up\.kernel", "feed_forward.w3.weight", "linear"),
    (r"mlp\.down\.kernel", "feed_forward.w2.weight", "linear"),
    (r"norm1\.scale", "attention_norm.weight", "same"),
    (r"norm2\.scale", "ffn_norm.weight", "same"),
)

ROWS = (
    (r"prompt\.table", "cls_embedding.embedding_table.weight", "same"),
    (r"prompt\.null", "cls_embedding.uncond_embedding", "same"),
    (r"prompt\.(fc\d)\.kernel", r"cls_embedding.cap_proj.\1.weight", "linear"),
    (r"embedding", "tok_embeddings.codebooks.{i}.weight", "same"),
    (r"trunk\.norm\.scale", "norm.weight", "same"),
    (r"head\.embedding", "output.codebooks.{i}.weight", "same"),
    (r"head\.decoder\.norm\.scale", "output.norm.weight", "same"),
    (r"head\.kernel", "output.linear_head.weight", "linear"),
    (r"head\.bias", "output.linear_head.bias", "same"),
    *((rf"trunk\.blocks\.{ours}", f"layers.{{i}}.{name}", order) for ours, name, order in _BLOCKS),
    *(
        (rf"head\.decoder\.blocks\.{ours}", f"output.layers.{{i}}.{name}", order)
        for ours, name, order in _BLOCKS
    ),
)
"""Rows of `torch_layout`, both ways."""


def is_generator(args: Mapping | None, state: Mapping[str, np.ndarray]) -> bool:
    """Recognises the weights of a generator, by names or by what this package wrote beside them.

    args, state: see `files.read_content`.
    """
    if args and "product" in args:
        return args["product"] == "generator"
    return any(name.startswith(("tok_embeddings.codebooks.", "cls_embedding.")) for name in state)
