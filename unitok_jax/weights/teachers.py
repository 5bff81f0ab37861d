"""Files of frozen teachers: the public layouts of DINO, SigLIP 2 and CLIP, and their loading."""

import logging
import math
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax import trees
from unitok_jax.models.layers import Keys
from unitok_jax.models.pretrained.teachers import KINDS, Teacher
from unitok_jax.models.pretrained.vit import Shape
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights import pretrained, torch_layout

log = logging.getLogger(__name__)

# Parameters of a `Teacher` and their names here: (pattern, name, axis order), see torch_layout
ROWS = (
    (r"image\.(cls_token|pos_embed|register_tokens)", r"image.\1", "same"),
    (r"image\.patch_embed\.proj\.kernel", r"image.patch_embed.proj.weight", "conv"),
    (r"image\.(patch_embed\.proj|norm_pre)\.bias", r"image.\1.bias", "same"),
    (r"image\.norm_pre\.scale", r"image.norm_pre.weight", "same"),
    (r"image\.blocks\.block\.(.*)\.kernel", r"image.blocks.{i}.\1.weight", "linear"),
    (r"image\.blocks\.block\.(.*)\.scale", r"image.blocks.{i}.\1.weight", "same"),
    (r"image\.blocks\.block\.(.*\.(?:bias|gamma))", r"image.blocks.{i}.\1", "same"),
    (r"projection", r"projection", "same"),
    *torch_layout.ROWS,
)

_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_TEXT_LAYER = r"text_model\.encoder\.layers\.(\d+)\."
_TRUNK = r"(?:visual\.trunk\.)?"
# (pattern of a name in a file, name here). `#q`, `#k`, `#v` are parts to be joined, `#T` is to be
# transposed. The first row that matches decides.
LAYOUTS = (
    # the projects of DINOv2 and of timm, whose towers open_clip calls visual.trunk
    (_TRUNK + r"(cls_token|pos_embed|register_tokens|patch_embed\..*|blocks\..*)", r"image.\1"),
    (_TRUNK + r"(norm\..*)", r"\1"),
    # transformers, DINOv2 and DINOv3
    (r"embeddings\.(cls_token|register_tokens)", r"image.\1"),
    (r"embeddings\.position_embeddings", r"image.pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"image.patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+\.(?:norm\d|mlp\.fc\d)\..*)", r"image.blocks.\1"),
    (
        r"encoder\.layer\.(\d+)\.attention\.attention\.([qkv])\w+\.(.*)",
        r"image.blocks.\1.attn.qkv.\3#\2",
    ),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.*)", r"image.blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"image.blocks.\1.ls\2.gamma"),
    (r"layernorm\.(.*)", r"norm.\1"),
    # transformers, DINOv3
    (r"embeddings\.patch_embeddings\.(weight|bias)", r"image.patch_embed.proj.\1"),
    (r"layer\.(\d+\.norm\d\..*)", r"image.blocks.\1"),
    (r"layer\.(\d+)\.attention\.([qkv])_proj\.(.*)", r"image.blocks.\1.attn.qkv.\3#\2"),
    (r"layer\.(\d+)\.attention\.o_proj\.(.*)", r"image.blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.layer_scale(\d)\.lambda1", r"image.blocks.\1.ls\2.gamma"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(.*)", r"image.blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(.*)", r"image.blocks.\1.mlp.gate.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(.*)", r"image.blocks.\1.mlp.fc2.\2"),
    # transformers, SigLIP 2 and CLIP
    (r"vision_model\.embeddings\.class_embedding", r"image.cls_token"),
    (r"vision_model\.embeddings\.position_embedding\.weight", r"image.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.(.*)", r"image.patch_embed.proj.\1"),
    (r"vision_model\.pre_layrnorm\.(.*)", r"image.norm_pre.\1"),
    (_LAYER + r"layer_norm(\d\..*)", r"image.blocks.\1.norm\2"),
    (_LAYER + r"self_attn\.([qkv])_proj\.(.*)", r"image.blocks.\1.attn.qkv.\3#\2"),
    (_LAYER + r"self_attn\.out_proj\.(.*)", r"image.blocks.\1.attn.proj.\2"),
    (_LAYER + r"(mlp\..*)", r"image.blocks.\1.\2"),
    (r"vision_model\.post_layernorm\.(.*)", r"norm.\1"),
    (r"visual_projection\.weight", r"projection#T"),
    (r"text_model\.embeddings\.token_embedding\.weight", r"text_encoder.token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", r"text_encoder.positional_embedding"),
    (
        _TEXT_LAYER + r"self_attn\.([qkv])_proj\.(.*)",
        r"text_encoder.transformer.resblocks.\1.attn.in_proj_\3#\2",
    ),
    (_TEXT_LAYER + r"layer_norm(\d\..*)", r"text_encoder.transformer.resblocks.\1.ln_\2"),
    (_TEXT_LAYER + r"self_attn\.(out.*)", r"text_encoder.transformer.resblocks.\1.attn.\2"),
    (_TEXT_LAYER + r"mlp\.fc1\.(.*)", r"text_encoder.transformer.resblocks.\1.mlp.c_fc.\2"),
    (_TEXT_LAYER + r"mlp\.fc2\.(.*)", r"text_encoder.transformer.resblocks.\1.mlp.c_proj.\2"),
    (r"text_model\.final_layer_norm\.(.*)", r"text_encoder.ln_final.\1"),
    (r"text_projection\.weight", r"text_encoder.text_projection#T"),
    # open_clip, CLIP
    (r"visual\.class_embedding", r"image.cls_token"),
    (r"visual\.positional_embedding", r"image.pos_embed"),
    (r"visual\.conv1\.(.*)", r"image.patch_embed.proj.\1"),
    (r"visual\.ln_pre\.(.*)", r"image.norm_pre.\1"),
    (r"visual\.transformer\.resblocks\.(\d+)\.ln_(.*)", r"image.blocks.\1.norm\2"),
    (
        r"visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(.*)",
        r"image.blocks.\1.attn.qkv.\2",
    ),
    (
        r"visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)",
        r"image.blocks.\1.attn.proj.\2",
    ),
    (r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"image.blocks.\1.mlp.fc1.\2"),
    (r"visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"image.blocks.\1.mlp.fc2.\2"),
    (r"visual\.ln_post\.(.*)", r"norm.\1"),
    (r"visual\.proj", r"projection"),
    (
        r"(transformer\.resblocks\..*|token_embedding\.weight|positional_embedding|ln_final\..*"
        r"|text_projection)",
        r"text_encoder.\1",
    ),
    (r"logit_scale", r"logit_scale"),
)
# Entries of the same files that no teacher needs: heads that pool, SigLIP 2's text tower, buffers.
UNUSED = (
    r"(embeddings\.)?mask_token",
    r"(visual\.trunk\.)?attn_pool\..*",
    r"vision_model\.head\..*",
    r"text\..*",
    r"text_model\..*",
    r"logit_bias",
    r".*position_ids|attn_mask",
)
_OF_RELATION = ("projection", "logit_scale", "text_encoder.")
OF_TOKENS = ("image.*", "norm.*")
"""Parameters that the features of tokens depend on, as globs."""


def abstract(kind: str, dtype, stream, relation: bool) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a teacher and the shapes of its parameters, without any arrays.

    Args:
      kind: a key of `KINDS`.
      dtype: compute dtype.
      stream: dtype of the residual streams.
      relation: True for the text tower and the joint space too.
    """
    kwargs = dict(relation=relation, dtype=jnp.dtype(dtype), stream=jnp.dtype(stream))
    made = nnx.eval_shape(lambda: Teacher(KINDS[kind], **kwargs, rngs=Keys(0)))
    graph, params = nnx.split(made)
    return graph, nnx.to_pure_dict(params)


def load(kind: str, path: str, *, relation: bool, key: str, turn_off: str) -> dict:
    """Loads the parameters of a teacher.

    Args:
      kind: a key of `KINDS`.
      path: a .safetensors or PyTorch file of one of `LAYOUTS`, or `seeded` for random weights.
      relation: True for the text tower and the joint space too.
      key: the configuration's key of `path`, for messages.
      turn_off: setting that removes the teacher, for messages.

    Returns:
      The parameters as a nested dict of float32 NumPy arrays.

    Raises:
      FileNotFoundError: empty path or missing file; the message names the place of publication.
      ConversionError: a ValueError; the file is of another network, or of another size.
      ImportError: a PyTorch file without PyTorch.
    """
    shapes = abstract(kind, "float32", "float32", relation)[1]
    if path == pretrained.SEEDED:
        log.warning(
            "%s=%s: the teacher has random weights, from which nothing is learned", key, path
        )
        return pretrained.stand_in(shapes)
    advice = (
        f"It must name the weights of teacher.kind={kind}, such as the model.safetensors of "
        f"{KINDS[kind].files}; without a teacher: {turn_off}; random weights, for trying things "
        f"out: {key}={pretrained.SEEDED}"
    )
    state = pretrained.read_named(path, key, advice)
    try:
        return torch_layout.from_torch(_own(kind, state, relation), shapes, ROWS, fixed={})
    except ValueError as error:
        raise ConversionError(f"{key}={path}: {pretrained.first_lines(error)}") from error


def _own(kind: str, state: Mapping[str, np.ndarray], relation: bool) -> dict[str, np.ndarray]:
    """Renames `state` to the names of `ROWS`; drops what no teacher needs.

    Raises:
      ValueError: it is of another network than `kind`.
    """
    found, parts = {}, {}
    for name, array in state.items():
        target = translate(name)
        if target is None or (not relation and target.startswith(_OF_RELATION)):
            continue
        target, _, part = target.partition("#")
        if part in ("q", "k", "v"):
            parts.setdefault(target, {})[part] = array
        else:
            found[target] = array.T if part == "T" else array
    rotary = not KINDS[kind].image.table
    for target, three in parts.items():
        if rotary and target.endswith(".bias") and three.keys() == {"q", "v"}:
            three["k"] = np.zeros_like(three["q"])  # DINOv3's keys have none
        if three.keys() == {"q", "k", "v"}:
            found[target] = np.concatenate([three[part] for part in "qkv"])
    for name in ("image.cls_token", "image.pos_embed"):
        if name in found:
            found[name] = found[name].reshape(1, -1, found[name].shape[-1])
    _check(kind, found, state, relation)
    return found


def digests(params) -> dict[str, int]:
    """Returns a checksum of each part of a teacher's parameters: heads depend on the first alone.

    params: float32 NumPy arrays, as `load` returns them.
    """
    tokens, rest = trees.split(params, OF_TOKENS)
    found = {"teacher": pretrained.digest(tokens)}
    return found | ({"teacher, its joint space": pretrained.digest(rest)} if rest else {})


def translate(name: str) -> str | None:
    """Returns the name here of an entry of a file, None if no teacher needs it."""
    for pattern, target in LAYOUTS:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(target)
    return None if any(re.fullmatch(pattern, name) for pattern in UNUSED) else name


def _check(kind, found, state, relation):
    """Refuses a file of another architecture or size, by what both are."""
    wanted = KINDS[kind].image
    have = _describe(found)
    if have is None:
        what = pretrained.recognise(state).what
        raise ValueError(
            f"it seems to be {what} (with {', '.join(sorted(state)[:3])}); expected "
            f"teacher.kind={kind}, {_words(_sizes(wanted))}, of {KINDS[kind].files}"
        )
    if have != _sizes(wanted):
        others = [name for name, row in KINDS.items() if _sizes(row.image) == have]
        hint = f"; set teacher.kind={' or '.join(others)}" if others else ""
        raise ValueError(
            f"it is {_words(have)}; expected teacher.kind={kind}, {_words(_sizes(wanted))}{hint}"
        )
    if relation and not any(name.startswith("text_encoder.") for name in found):
        raise ValueError(
            "it has no text tower, which loss.teacher_relation needs: take a file of the whole CLIP"
        )


def _describe(found) -> tuple | None:
    """Returns `_sizes` of the vision transformer in a file, None without one."""
    patches, table = found.get("image.patch_embed.proj.weight"), found.get("image.pos_embed")
    registers = found.get("image.register_tokens")
    if patches is None or patches.ndim != 4 or (table is None and registers is None):
        return None
    blocks = {name.split(".")[2] for name in found if name.startswith("image.blocks.")}
    has_class = "image.cls_token" in found
    return (
        *(patches.shape[0], len(blocks), patches.shape[3]),
        0 if table is None else math.isqrt(table.shape[1] - has_class),
        has_class,
        0 if registers is None else registers.shape[1],
        "image.blocks.0.ls1.gamma" in found,
        "image.norm_pre.weight" in found,
        "image.blocks.0.mlp.gate.weight" in found,
    )


def _sizes(shape: Shape) -> tuple:
    return (
        *(shape.width, shape.depth, shape.patch, shape.table, shape.class_token, shape.registers),
        *(shape.layer_scale, shape.norm_before, shape.gelu == "swiglu"),
    )


def _words(sizes) -> str:
    width, depth, patch, table, has_class, registers, scaled, norm_before, gated = sizes
    parts = [
        f"a vision transformer of width {width} and {depth} blocks",
        f"patches of {patch} px",
        f"a position table of {table}x{table}" if table else "rotary positions",
        "a class token" if has_class else "no class token",
    ]
    parts += [f"{registers} register tokens"] * bool(registers) + ["LayerScale"] * scaled
    parts += ["a norm before the blocks"] * norm_before + ["gated MLPs"] * gated
    return ", ".join(parts)
