"""Shows what a run would train on: a contact sheet of its first samples, and statistics.

`unitok data preview --config=configs/photos.py --output=preview` writes `sheet.png`, the captions
of its pictures line by line as `sheet.txt`, and `statistics.json`. The folder is new, empty or of
an earlier preview, whose files are replaced.
"""

import logging
import sys

from absl import flags
from ml_collections import config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.data.preview.samples import preview
from unitok_jax.system import console, paths


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "That of a run, such as configs/b16.py; --config.a.b=... sets a key.",
        flag_values=values,
    )
    flags.DEFINE_string("output", "preview", "The folder of the files.", flag_values=values)
    flags.DEFINE_integer(
        "images", 32, "On the sheet; 0: no sheet.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "samples",
        1000,
        "To measure, drawn at random; 0: none.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "start_step",
        0,
        "Of training: where the sheet begins.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "font",
        "",
        "A font file, where captions need more than ASCII, as DejaVuSans.ttf.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    parse_or_exit(sys.argv, values, usage=__doc__, example="configs/photos.py")
    for noisy in ("jax", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with console.command():
            preview(
                values.config,
                paths.expand(values.output),
                images=values.images,
                samples=values.samples,
                start_step=values.start_step,
                font=values.font and str(paths.expand(values.font)),
            )
    except (ValueError, OSError, ImportError) as error:
        console.refuse(error)
