"""Table of the layout of language models with images, for `torch_layout`.

The language model's names are those of Hugging Face's Llama and Qwen, the others those of UniTok's
release. A model of text alone has the rows of `language`.
"""

from collections.abc import Mapping

import numpy as np

_IMAGE = "model.multi_embedder"


def rows(model: Mapping) -> tuple:
    """Returns the rows of `torch_layout`, both ways.

    model: `config.model`; 'heads', 'groups' and 'head_width' are read: queries, keys and values are
    one array here, and three there.
    """
    queries, keys = (model[key] * model["head_width"] for key in ("heads", "groups"))

    def parts(leaf):
        return {
            f"self_attn.{name}_proj.{leaf}": columns
            for name, columns in (("q", queries), ("k", keys), ("v", keys))
        }

    blocks = (
        (r"attention\.qkv\.kernel", parts("weight"), "linear"),
        (r"attention\.qkv\.bias", parts("bias"), "same"),
        (r"attention\.out\.kernel", "self_attn.o_proj.weight", "linear"),
        (r"attention\.([qk]_norm)\.scale", r"self_attn.\1.weight", "same"),
        (r"mlp\.(gate|up|down)\.kernel", r"mlp.\1_proj.weight", "linear"),
        (r"norm1\.scale", "input_layernorm.weight", "same"),
        (r"norm2\.scale", "post_attention_layernorm.weight", "same"),
    )
    decoders = (("language", "model"), ("head", "ar_head"))
    return (
        (r"language\.embedding", "model.embed_tokens.weight", "same"),
        (r"language\.kernel", "lm_head.weight", "linear"),
        *(
            (rf"{ours}\.decoder\.norm\.scale", f"{theirs}.norm.weight", "same")
            for ours, theirs in decoders
        ),
        *(
            (rf"{ours}\.decoder\.blocks\.{leaf}", _prefixed(f"{theirs}.layers.{{i}}", name), order)
            for ours, theirs in decoders
            for leaf, name, order in blocks
        ),
        (r"head\.embedding", "ar_head.codebooks.{i}.weight", "same"),
        (r"head\.kernel", "ar_head.linear_head.weight", "linear"),
        (r"head\.bias", "ar_head.linear_head.bias", "same"),
        (
            r"image\.quantizer\.codebook",
            f"{_IMAGE}.quantizer.codebooks.{{i}}.codebook.weight",
            "same",
        ),
        (r"image\.mlp\.norm\.scale", f"{_IMAGE}.mm_projector.0.weight", "same"),
        (r"image\.mlp\.norm\.bias", f"{_IMAGE}.mm_projector.0.bias", "same"),
        *(
            (rf"image\.mlp\.{layer}\.{leaf}", f"{_IMAGE}.mm_projector.{number}.{name}", order)
            for layer, number in (("fc1", 1), ("fc2", 3))
            for leaf, name, order in (("kernel", "weight", "linear"), ("bias", "bias", "same"))
        ),
        (r"image\.projection\.(.*\.)?kernel", rf"{_IMAGE}.attn_projection.\1weight", "linear"),
        (r"image\.projection\.(.*\.)?scale", rf"{_IMAGE}.attn_projection.\1weight", "same"),
        (
            r"image\.projection\.(.*\.)?(bias|q_bias|v_bias)",
            rf"{_IMAGE}.attn_projection.\1\2",
            "same",
        ),
    )


def is_multimodal(state: Mapping[str, np.ndarray]) -> bool:
    """Recognises the weights of a multimodal model by their names."""
    return any(name.startswith((f"{_IMAGE}.", "ar_head.")) for name in state)


def fixed_entries(params: Mapping) -> dict[str, np.ndarray]:
    """Returns the entries that the release stores but never changes: name -> zeros.

    params: nested dict of arrays, or of anything with a shape, of a whole model.
    """
    image = params["image"]
    books, entries, _ = image["quantizer"]["codebook"].shape
    fixed = {
        f"{_IMAGE}.quantizer.codebooks.{book}.vocab_usage": np.zeros(entries, np.float32)
        for book in range(books)
    }
    if "attn" in image["projection"]:
        shape = image["projection"]["attn"]["q_bias"].shape
        fixed[f"{_IMAGE}.attn_projection.attn.zero_k_bias"] = np.zeros(shape, np.float32)
    return fixed


def _prefixed(prefix, name):
    if isinstance(name, str):
        return f"{prefix}.{name}"
    return {f"{prefix}.{part}": columns for part, columns in name.items()}
