"""Initialises a run from weights: of this package's UniTok, of the release, or of a CLIP."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.models.vitamin import SIZES
from unitok_jax.system.paths import printable
from unitok_jax.weights import clip_layout, document, files, generator_layout, load, torch_layout
from unitok_jax.weights.report import Report, Used

# key of the model -> parts whose weights depend on the key; `size` affects all but the text tower
_CONCERNS = {
    "size": ("encoder", "quant_proj", "post_quant_proj", "decoder", "fc_norm", "projection"),
    "vocab_size": ("quantizer",),
    "quantizer": ("quantizer",),
    "fsq_levels": ("quantizer",),
    "num_codebooks": ("quantizer",),
    "latent_width": ("quant_proj", "quantizer", "post_quant_proj"),
    "quant_proj": ("quant_proj", "post_quant_proj"),
    "quant_heads": ("quant_proj", "post_quant_proj"),
    "quant_causal": ("post_quant_proj",),
    "num_query": ("encoder", "decoder"),
    "embed_dim": ("text_encoder", "projection"),
    "contrastive_kind": ("logit_bias",),
    "text": ("text_encoder",),
}
_TOWERS = {"image tower": "encoder.", "text tower": "text_encoder."}


class Taken(NamedTuple):
    """Parameter of the model, wholly or partly from the file."""

    array: np.ndarray  # float32, of the parameter's shape
    rows: np.ndarray | None  # bool, True at filled positions of the leading axis; None: all


def initial_params(
    path,
    abstract,
    fresh,
    *,
    model: Mapping,
    include: Sequence[str] = ("*",),
    key: str = "init.include",
):
    """Builds the initial parameters of a run: from a file, and fresh where the file has none.

    Args:
      path: see `match`.
      abstract: nested dict of `jax.ShapeDtypeStruct`, with the shardings of the result if any.
      fresh: the arrays of a fresh model, in the structure of `abstract`.
      model: the keyword arguments of `UniTok`.
      include: globs over the model's dotted paths: only these parameters are taken.
      key: name of `include` in an error.

    Returns:
      The nested dict of arrays, and the Report.

    Raises:
      ValueError, OSError: see `match`.
    """
    taken, report = match(path, abstract, model=model, include=include, key=key)

    def choose(keys, leaf, default):
        name = trees.dotted(keys)
        return _place(taken[name], leaf, default) if name in taken else default

    return jax.tree_util.tree_map_with_path(choose, abstract, fresh), report


def match(
    path,
    abstract,
    *,
    model: Mapping,
    include: Sequence[str] = ("*",),
    key: str = "init.include",
) -> tuple[dict[str, Taken], Report]:
    """Selects the parameters for `initial_params` from a file, before any array is on a device.

    Args:
      path: a workdir or a checkpoint folder, a UniTok in the public layout, an open_clip CLIP whose
        image tower is a ViTamin or whose text tower alone fits, or a ViTamin trunk of timm; files
        are .pth, .pt, .ckpt, .bin or .safetensors. See `clip_layout`.

    Returns:
      Dotted path -> Taken, and the Report.

    Raises:
      ValueError: a glob matches nothing; a UniTok's configuration differs; a text tower's positions
        or vocabulary differ from the model's; nothing of the file fits. The message names the
        cause.
      OSError: the file does not exist.
    """
    path = load.local(path)
    mask = trees.flatten(trees.name_mask(abstract, include, key))
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)} does not exist")
    if path.is_dir():
        return _match_unitok(path, *load.read(path), abstract, model, mask, key, ())
    args, state = files.read_state(path)
    if generator_layout.is_generator(args, state):
        document.check_product(path, "tokenizer", "generator")
    if args is None and "quantizer.codebooks.0.codebook.weight" not in state:
        return _match_clip(path, state, abstract, model, mask, key)
    if args is not None:
        read = load.from_state(path, args, state, {})
        return _match_unitok(path, *read, abstract, model, mask, key, ())
    config, params = load.from_state(path, None, state, _heads(model, state))
    config.model.quant_heads, config.model.text.heads = model["quant_heads"], model["text"]["heads"]
    notes = ("the file has no configuration: its numbers of heads are taken to be the model's",)
    return _match_unitok(path, config, params, abstract, model, mask, key, notes)


def _match_unitok(path, config, params, abstract, model, mask, key, notes):
    chosen = {name.split(".")[0] for name, value in mask.items() if value}
    saved, present = differences.stated(config.model.to_dict()), differences.stated(model)
    linear = saved["quant_proj"] == present["quant_proj"] == "linear"
    problems = []
    for name in sorted(saved.keys() | present.keys()):
        # A key without a row affects all parts.
        free = name in differences.FREE_OF_MODEL or (linear and name == "quant_heads")
        if not free and chosen & set(_CONCERNS.get(name, chosen)):
            problems += _differences(f"model.{name}", _of(saved, name), _of(present, name))
    if problems:
        raise ValueError(
            f"{path} was saved with another model:\n  " + "\n  ".join(problems) + "\nset the saved "
            f"values, or leave out the parts that depend on them: {key}=('encoder.*',) for example"
        )
    saved = trees.flatten(jax.device_get(params))
    taken = {name: Taken(saved[name], None) for name in mask if mask[name]}
    report = Report(
        path=str(path),
        kind=f"a UniTok of size {config.model.size}"
        + ("" if notes else ", trained at {}x{}".format(*config.data.image_size)),
        used={name: Used(name, None, array.size) for name, (array, _) in taken.items()},
        unused={name: f"left out by {key}" for name in saved if name not in taken},
        sizes=_sizes(abstract),
        fresh={name: None for name in mask if not mask[name]},
        notes=notes,
    )
    return taken, report


def _match_clip(path, state, abstract, model, mask, key):
    # No CLIP has codes, and not every quantizer has names in that layout.
    table = torch_layout.entries({k: v for k, v in abstract.items() if k != "quantizer"})
    leaves = trees.flatten(abstract)
    _check_text(path, state, table, mask, key)
    taken, used, unused, fits = {}, {}, {}, set()
    names = clip_layout.translate(state)
    for name, (target, why) in names.items():
        have = tuple(np.shape(state[name]))
        if target is None or target not in table:
            unused[name] = why or f"no counterpart: the model has no {target}"
            continue
        entry = table[target]
        ours = trees.dotted(entry.path)
        if have != tuple(entry.shape):
            unused[name] = f"shape {have}, the model's {ours} wants {tuple(entry.shape)}"
            continue
        fits.add(ours)
        if not mask[ours]:
            unused[name] = f"left out by {key}"
            continue
        try:
            array = torch_layout.from_entry(name, entry, state[name])
        except torch_layout.LayoutError as error:
            raise ValueError(f"{path}: {error}") from error
        if Used(ours, entry.index, array.size) in used.values():
            raise ValueError(f"{path} has two arrays for {ours}; the second is {name}")
        used[name] = Used(ours, entry.index, array.size)
        if entry.index is None:
            taken[ours] = Taken(array, None)
        else:
            shape = leaves[ours].shape
            empty = Taken(np.zeros(shape, np.float32), np.zeros(shape[0], bool))
            whole, rows = taken.setdefault(ours, empty)
            whole[entry.index], rows[entry.index] = array, True
    fresh = {name: None for name in mask if name not in taken}
    for name, (_, rows) in taken.items():
        if rows is not None and not rows.all():
            fresh[name] = int((~rows).sum())
    report = Report(
        path=str(path),
        kind=clip_layout.describe(state),
        used=used,
        unused=unused,
        sizes=_sizes(abstract),
        fresh=fresh,
        notes=tuple(_clip_notes(used, names, state, model, key)),
    )
    _check_any(report, fits, key)
    return taken, report


def _check_text(path, state, table, mask, key):
    """Checks positions and vocabulary of a text tower of the model's width, if it is included."""
    advice = {
        "positional_embedding": ("context_length", "set model.text.context_length={}"),
        "token_embedding.weight": ("vocab_size", "its captions are tokenized in another way"),
    }
    for name, (option, words) in advice.items():
        entry = table[f"text_encoder.{name}"]
        for found in {name, f"text.{name}"} & state.keys():
            have, want = np.shape(state[found]), entry.shape
            if mask[trees.dotted(entry.path)] and have[1:] == want[1:] and have != want:
                raise ValueError(
                    f"{path}: {found} has {have[0]} rows, model.text.{option}={want[0]}; "
                    f"{words.format(have[0])}, or leave the text tower out with {key}"
                )


def _check_any(report, fits, key):
    kind = f"{report.path} seems to be {report.kind}"
    if not any(name.startswith(tuple(_TOWERS.values())) for name in fits):
        raise ValueError(
            f"{kind}; nothing of it fits the image or the text tower of this model:\n"
            + "\n".join([*(f"  {note}" for note in report.notes), *report.unused_lines()[:12]])
        )
    if not report.used:
        raise ValueError(f"{kind}; {key} leaves out all that fits: {', '.join(sorted(fits)[:5])}")


def _clip_notes(used, names, state, model, key):
    shapes = {target: np.shape(state[name]) for name, (target, _) in names.items() if target}
    present = trees.flatten(dict(model))
    found = clip_layout.sizes(shapes)
    other = [f"model.{name}={value}" for name, value in found.items() if value != present[name]]
    if other:
        yield f"the towers of the file have {', '.join(other)}"
    paths = {entry.path for entry in used.values()}
    missing = [t for t, prefix in _TOWERS.items() if not any(p.startswith(prefix) for p in paths)]
    if "logit_scale" in paths and len(missing) == 1:
        yield f"logit_scale is used though the {missing[0]} is fresh; {key} can leave it out"
    if "text tower" not in missing:
        yield (
            "no array tells a text tower's heads (CLIP's have a width of 64, here "
            f"{model['text']['width'] / model['text']['heads']:g}) nor whether it was trained with "
            "quick GELU (here exact GELU)"
        )


def training_differences(saved: Mapping, present: Mapping) -> list[str]:
    """Lists differences of two configurations that make the training states differ, one line each.

    Compared are the model, the trained parts, the optimiser, how the codebooks learn, and the
    presence of a discriminator; the average is reset anyway.
    """
    if not {"optim", "gan"} <= saved.keys():
        return ["it holds weights only, as converted ones do: leave out init.training"]
    models = [differences.stated(each["model"]) for each in (saved, present)]
    lines = [
        line
        for key in sorted(set().union(*models) - set(differences.FREE_OF_MODEL))
        for line in _differences(f"model.{key}", *(_of(model, key) for model in models))
    ]
    frozen = tuple(saved["optim"]["frozen"]), tuple(present["optim"]["frozen"])
    lines += _differences("optim.frozen", *frozen)
    for key in ("optim.kind", "codebook.learning"):
        lines += _differences(key, *(differences.value(each, key) for each in (saved, present)))
    for key in ("gan.weight", "loss.teacher_token"):
        weights = [differences.value(each, key) for each in (saved, present)]
        if bool(weights[0]) != bool(weights[1]):
            lines += _differences(key, *weights)
        elif key == "loss.teacher_token" and weights[0]:
            lines += _differences(
                "teacher", *(_heads_of(tree["teacher"]) for tree in (saved, present))
            )
    return lines


def _heads_of(teacher):
    return {key: teacher[key] for key in ("kind", "shallow")}


def _of(model, key):
    """Returns the value of a key of a `differences.stated` model."""
    return model.get(key, differences.ADDED.get(f"model.{key}"))


def _differences(key, saved, present):
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        lines = []
        for name in sorted(saved.keys() | present.keys()):
            lines += _differences(f"{key}.{name}", saved.get(name), present.get(name))
        return lines
    return [] if saved == present else [f"{key}: saved {saved!r}, now {present!r}"]


def _heads(model, state):
    """Returns heads for reading a file without a configuration; no shape depends on the heads."""
    width = np.size(state.get("encoder.norm.weight", ()))
    heads = {size.width: size.heads for size in SIZES.values()}
    image = heads.get(width, SIZES[model["size"]].heads)
    return {"heads": image, "quant_heads": 1, "text_heads": 1}


def _sizes(abstract):
    return {name: int(np.prod(leaf.shape)) for name, leaf in trees.flatten(abstract).items()}


def _place(taken, leaf, default):
    """Places an array with the sharding of `leaf`; every process has the whole array."""
    array, sharding = taken.array.astype(leaf.dtype), getattr(leaf, "sharding", None)
    if sharding is None:
        placed = jnp.asarray(array)
    else:
        placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    if taken.rows is None or taken.rows.all():
        return placed
    rows = taken.rows.reshape(-1, *(1,) * (array.ndim - 1))
    return jax.jit(lambda a, b: jnp.where(rows, a, b), out_shardings=sharding)(placed, default)
