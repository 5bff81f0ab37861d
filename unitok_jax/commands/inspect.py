"""Tells what a file or folder of weights holds, and what a run would take from it.

`unitok inspect FILE` describes a tokenizer, a generator or a multimodal model, of ours or released:
its sizes, and the hashes by which codes belong to a tokenizer. Of a folder of a language model, it
tells the keys of a configuration that starts from it.

`unitok inspect FILE --config=configs/l16.py` prints what a run of that configuration would take
from the file, a UniTok's or a CLIP's, and starts nothing. `--config.model.embed_dim=512` sets a
key; `--include='encoder.*'`, which may be repeated, takes only the parameters that a glob matches.
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.system import console


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A file with get_config(); --config.a.b=... sets a key.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "include", ["*"], "A glob of parameters to take; may be repeated.", flag_values=values
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)  # flags after the file
    rest = parse_or_exit(sys.argv, values, usage=__doc__, beside=1, required=False)[1:]
    if not rest:
        console.refuse("FILE is missing: the weights; --help shows more")
    try:
        with console.command():  # --help does not wait for JAX
            print(_taken(rest[0], values) if values.config else _described(rest[0]))
    except (ValueError, OSError, ImportError) as error:
        console.refuse(error)


def _taken(file: str, values: flags.FlagValues):
    from unitok_jax.models.unitok import abstract_model
    from unitok_jax.weights import initialize

    model = values.config.model.to_dict()
    given = {"include": tuple(values.include), "key": "--include"}
    abstract = abstract_model(model)[1]
    return initialize.match(os.path.expanduser(file), abstract, model=model, **given)[1]


def _described(path: str) -> str:
    from unitok_jax.generate import loading
    from unitok_jax.multimodal import loading as multimodal
    from unitok_jax.weights import generator_layout, hub, load, pretrained

    content, notes = None, ()
    if load.is_folder(path):
        product = load.product(path)
    else:
        content = pretrained.read_files(path)
        is_generator = generator_layout.is_generator(content.args, content.state)
        product = "generator" if is_generator else "tokenizer"
        if not is_generator and content.args is None:
            raise ValueError(
                f"{path} seems to be {pretrained.recognise(content.state).what} and carries no "
                "configuration: what a run would take from it is told with one, such as "
                "--config=configs/l16.py"
            )
    if product == "generator":
        weights = loading.from_content(path, content) if content else loading.read(path)
        what, facts = f"a generator of size {weights.config.model.size}", loading.facts(weights)
        notes = weights.notes
    elif product == "multimodal":
        weights = multimodal.read(path)
        what, facts, notes = "a multimodal model", multimodal.facts(weights), weights.notes
    elif product == "language":
        what, facts = "a language model", _language(path)
    else:
        read = load.from_state(path, *content[:2], {}) if content else load.read(path)
        what, facts = f"a tokenizer of size {read[0].model.size}", hub.facts(*read)
    lines = [f"  {name:26}{value}" for name, value in facts.items()]
    lines += [f"  {note}" for note in notes]
    return "\n".join([f"{path}: {what}", *lines])


def _language(path: str) -> dict[str, str]:
    """Returns the keys that a folder of a language model decides, and its special ids."""
    from unitok_jax.multimodal import trunk

    folder = trunk.open_folder(path)
    keys = {f"model.{key}": f"{value}" for key, value in folder.keys.items()}
    special = folder.tokenizer.special._asdict().items()
    named = {f"id of {key}": f"{number}" for key, number in special if number is not None}
    return keys | named | {"rows of its embeddings": f"{folder.options.trunk['vocabulary']}"}
