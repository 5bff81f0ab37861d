"""Shows what a run would train on: a contact sheet of its first samples, and statistics.

`unitok data preview --config=configs/photos.py --output=preview` writes `sheet.png`, the captions
of its pictures line by line as `sheet.txt`, and `statistics.json`. Of a multimodal model it writes
`rows.txt`, packed rows with what is learnt of them, and the pictures of these rows as `sheet.png`
if data.tokenizer is set. The folder is new, empty or of an earlier preview, whose files are
replaced.
"""

import logging
import sys

from absl import flags
from ml_collections import config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.data.preview.samples import preview
from unitok_jax.data.sources import check_outside_data
from unitok_jax.system import console, paths

_IMAGES = 32  # on the sheet; or rows


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
        "images",
        _IMAGES,
        f"On the sheet, or rows of a multimodal model; 0: no sheet, but {_IMAGES} rows.",
        lower_bound=0,
        flag_values=values,
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
            output = paths.expand(values.output)
            check_outside_data(output, "--output", values.config)
            options = {
                "start_step": values.start_step,
                "font": values.font and str(paths.expand(values.font)),
            }
            product = values.config.product
            if product not in ("tokenizer", "multimodal"):
                raise ValueError(f"product={product}: a preview is of images, or of packed rows")
            if product == "multimodal":
                _rows(values.config, output, values.images, options)
            else:
                preview(
                    values.config, output, images=values.images, samples=values.samples, **options
                )
    except (ValueError, OSError, ImportError) as error:
        console.refuse(error)


def _rows(config, output, rows: int, options) -> None:
    """Writes the preview of a multimodal model's rows; 0: `_IMAGES` of them without a sheet."""
    from unitok_jax.multimodal import data, preview  # Grain imports JAX
    from unitok_jax.multimodal.sources import ImageCodes

    model = config.model
    codes = ImageCodes(
        model.num_codebooks, model.vocab_size // model.num_codebooks, tuple(model.grid)
    )
    text = data.open_text(config.data.text)
    packed = data.open_data(config.data, text, codes, draws=model.projection != "full")
    path = config.data.tokenizer
    options["decode"] = _decoder(path, packed.codes) if path and rows else None
    preview.preview(packed, text, config.data, config.seed, output, rows=rows or _IMAGES, **options)


def _decoder(path: str, codes):
    """Returns `decode` of the tokenizer of some codes, which the data names."""
    from unitok_jax.data.images.transforms import to_uint8
    from unitok_jax.tokenizer.api import load

    tokenizer = load(path)
    if codes.tokenizer and tokenizer.hash != codes.tokenizer:
        raise ValueError(
            f"data.tokenizer={path} is tokenizer {tokenizer.hash}, and the codes of data.mixture "
            f"were made by {codes.tokenizer}: name that one"
        )
    return lambda found: to_uint8(tokenizer.decode(found, grid=codes.grid))
