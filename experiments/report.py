"""Tables and plots of the results of `experiments.generators`."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.cells import BASE, CODES, HEADS, SCALES
from unitok_jax.system.markdown import table

RESULTS, SHEETS = "results", "sheets"
PLOTS = ("experiment.png", "experiment_drawn.png")
READ = ("colour", "form", "both")


def read(folder: Path) -> list[dict]:
    """Reads all results of a folder, none if there are none."""
    return [json.loads(path.read_text()) for path in sorted((folder / RESULTS).glob("*.json"))]


def select(results: list[dict], **wanted) -> list[dict]:
    """Selects the results that have all the wanted values."""
    return [result for result in results if wanted.items() <= result.items()]


def spread(values: Iterable[float], decimals: int = 2) -> str:
    """Formats mean ± standard deviation over seeds; a single value has none."""
    values = list(values)
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{decimals}f}"
    return f"{mean} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else mean


def tables(results: list[dict]) -> str:
    """Formats the results as Markdown: originals and tokenizers, generators, and guidance."""
    return "\n\n".join([_tokenizers(results), _generators(results), _guidance(results)])


def cells(results: list[dict]) -> list[tuple[str, int]]:
    """Lists the kinds of codes and depths of the head that have results."""
    pairs = [(name, head) for name in CODES for head in HEADS[name]]
    return [
        (name, head)
        for name, head in pairs
        if select(results, kind="generator", codes=name, head=head)
    ]


def at_scale(results: list[dict], name: str, head: int, scale: float, figure: str) -> list[float]:
    """Lists a figure of what generators drew with a scale of guidance, one for each seed."""
    return [
        drawn[figure]
        for result in select(results, kind="generator", codes=name, head=head)
        for drawn in result["drawn"]
        if drawn["scale"] == scale
    ]


def _tokenizers(results):
    rows = []
    for original in select(results, kind="originals"):
        for name, figures in original["measured"].items():
            shares = [f"{figures[key]:.2f}" for key in READ]
            rows.append([f"originals, {name}", 1, "–", "–", f"{figures['fid']:.2f}", *shares])
    kinds = {"the base": (BASE, {"kind": "base"})}
    for name, codes in CODES.items():
        kinds[f"`{name}`"] = codes, {"kind": "tokenizer", "codes": name}
    for label, (codes, wanted) in kinds.items():
        if found := select(results, **wanted):
            rebuilt = [result["rebuilt"] for result in found]
            columns = [
                spread((result["psnr"] for result in found), 1),
                spread((result["bits_per_token"] for result in found), 1),
                *(spread(each[key] for each in rebuilt) for key in ("fid", *READ)),
            ]
            rows.append([f"{label} ({codes.books} × {codes.entries})", len(found), *columns])
    head = ["pictures", "seeds", "PSNR (dB)", "bits a token used", "FID", *READ]
    return table(head, rows)


def _generators(results):
    rows = []
    for name, head in cells(results):
        found = select(results, kind="generator", codes=name, head=head)
        columns = [spread((each["bits_per_image"] for each in found), 1)]
        for figure in ("fid", *READ):
            columns.append(spread(at_scale(results, name, head, SCALES[0], figure)))
        rows.append([f"`{name}`", head, len(found), *columns])
    return table(["codes", "head", "seeds", "bits a picture", "gFID", *READ], rows)


def _guidance(results):
    rows = []
    for name, head in cells(results):
        columns = [
            spread(at_scale(results, name, head, scale, figure))
            for figure in ("fid", "both")
            for scale in SCALES
        ]
        rows.append([f"`{name}`", head, *columns])
    titles = [f"{what} at {scale:g}" for what in ("gFID", "both") for scale in SCALES]
    return table(["codes", "head", *titles], rows)


def pyplot_for(output: Path):
    """Returns matplotlib's pyplot without a display, after making the folder of its files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    output.mkdir(parents=True, exist_ok=True)
    return pyplot


def plot(results: list[dict], folder: Path, output: Path) -> None:
    """Plots gFID and reading by depth of the head and by guidance, and a row drawn by each.

    Args:
      results: of `read`.
      folder: of the experiment, for the drawn pictures.
      output: folder that gets the files `PLOTS`.
    """
    pyplot = pyplot_for(output)
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for row, (what, title) in enumerate({"fid": "gFID", "both": "colour and form read"}.items()):
        for name in CODES:
            of_head = {head: at_scale(results, name, head, SCALES[0], what) for head in HEADS[name]}
            _line(axes[row, 0], of_head, name)
        for name, head in cells(results):
            if head == max(HEADS[name]):
                of_scale = {scale: at_scale(results, name, head, scale, what) for scale in SCALES}
                _line(axes[row, 1], of_scale, f"{name}, head {head}")
        axes[row, 0].set(ylabel=title, xlabel="blocks of the depth head", xticks=(0, 1, 2))
        axes[row, 1].set(xlabel="scale of guidance", xscale="log")
        axes[row, 1].set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
        axes[row, 1].minorticks_off()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[0]:
        if axis.lines:
            axis.legend()
    figure.savefig(output / PLOTS[0], dpi=80)
    pyplot.close(figure)
    _sheet(results, folder / SHEETS, output / PLOTS[1])


def _line(axis, points: dict[float, list[float]], label: str) -> None:
    """Plots a dot for each seed, and a line through the means."""
    points = {x: values for x, values in points.items() if values}
    if not points:
        return
    means = [statistics.mean(values) for values in points.values()]
    (line,) = axis.plot(list(points), means, "-", label=label)
    for x, values in points.items():
        axis.plot([x] * len(values), values, "o", alpha=0.6, color=line.get_color())


def _sheet(results, folder: Path, path: Path) -> None:
    """Joins the rows of pictures that the generators of the first seed drew."""
    names = [f"{name}-{head}-0.png" for name, head in cells(results)]
    rows = [np.asarray(Image.open(folder / name)) for name in names if (folder / name).exists()]
    if rows:
        Image.fromarray(np.concatenate(rows)).quantize(128).save(path, optimize=True)
