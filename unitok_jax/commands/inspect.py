"""Tells what a run would take from a file of weights: a UniTok's of ours or released, or a CLIP's.

`unitok inspect FILE --config=configs/l16.py` prints what a run of that configuration would take
from the file, and starts nothing. `--config.model.embed_dim=512` sets a key;
`--include='encoder.*'`, which may be repeated, takes only the parameters that a glob matches.
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
    example = "configs/l16.py"
    rest = parse_or_exit(sys.argv, values, usage=__doc__, example=example, beside=1)[1:]
    if not rest:
        console.refuse("FILE is missing: the weights; --help shows more")
    from unitok_jax.models.unitok import abstract_model
    from unitok_jax.weights import initialize  # --help does not wait for JAX

    try:
        with console.command():
            model = values.config.model.to_dict()
            abstract, file = abstract_model(model)[1], os.path.expanduser(rest[0])
            given = {"include": tuple(values.include), "key": "--include"}
            print(initialize.match(file, abstract, model=model, **given)[1])
    except (ValueError, OSError, ImportError) as error:
        console.refuse(error)
