"""Tables and plots of the results of `experiments.unified`."""

import statistics
from collections.abc import Callable
from pathlib import Path

from experiments.report import pyplot_for, select, spread, table
from experiments.unified_cells import CELLS, HEADS, SCALES, TOKENIZERS
from unitok_jax.data.formats.shape_questions import KINDS
from unitok_jax.evaluation.shapes.exam import PAIRS

PLOTS = ("unified_cells.png", "unified_heads.png")
SCALE = "2"  # of guidance, of the drawings in plots and in tables of all figures

_BLIND = "blind"
_ASKED = ("colour", "form")  # kinds of questions that the plots tell
_READ = ("colour", "form", "both", "place", "count", "zero_shot")
_TITLES = {"seen": "seen pairs", "held_out": "held-out pairs"}


def tables(results: list[dict]) -> str:
    """Formats the results as Markdown: tokenizers; answers and drawings of each kind of pairs;
    losses, and the drawings of every scale of guidance and of the released way."""
    texts = [_tokenizers(results)]
    texts += [_answers(results, pairs) for pairs in PAIRS]
    texts += [_drawings(results, pairs) for pairs in PAIRS]
    texts.append(_losses_and_guidance(results))
    return "\n\n".join(texts)


def answered(
    results: list[dict], cell: str, pairs: str, kind: str, figure: str = "right"
) -> list[float]:
    """Lists a figure of a cell's answers to questions of a kind, one for each seed.

    There are none of a model that is not trained to answer.
    """
    if not CELLS[cell].reads:
        return []
    found = [
        result["examined"][pairs]["answers"].get(kind, {})
        for result in select(results, kind="model", cell=cell)
    ]
    return [each[figure] for each in found if figure in each]


def drawn(
    results: list[dict],
    cell: str,
    pairs: str,
    figure: str,
    scale: str = SCALE,
    way: str = "drawn",
) -> list[float]:
    """Lists a figure of a cell's drawings, one for each seed; none of one that does not draw.

    Args:
      scale: of guidance, as the results name it.
      way: 'drawn', or 'released', which is there at one scale.
    """
    if not CELLS[cell].draws:
        return []
    found = [
        result["examined"][pairs][way].get(scale, {})
        for result in select(results, kind="model", cell=cell)
    ]
    return [each[figure] for each in found if figure in each]


def _tokenizers(results) -> str:
    rows = []
    for name in TOKENIZERS:
        if found := select(results, kind="tokenizer", tokenizer=name):
            columns = [spread((each["rebuilt"]["seen"]["psnr"] for each in found), 1)]
            for pairs in PAIRS:
                for figure in ("colour", "form", "both"):
                    columns.append(_of(found, "rebuilt", pairs, figure))
                for figure in _ASKED:
                    columns.append(_of(found, "probe", pairs, figure))
            rows.append([f"`{name}`", len(found), *columns])
    head = ["tokenizer", "seeds", "PSNR (dB)"]
    for pairs in PAIRS:
        head += [f"{_TITLES[pairs]}: colour", "form", "both", "probe: colour", "form"]
    return table(head, rows)


def _of(found, what: str, pairs: str, figure: str) -> str:
    shares = (each[what].get(pairs, {}) for each in found)
    return spread(each[figure] for each in shares if figure in each)


def _answers(results, pairs) -> str:
    """Formats answers with the first model's blind and shuffled rows below them."""
    rows = []
    for cell in CELLS:
        columns = [answered(results, cell, pairs, kind) for kind in KINDS]
        if any(columns):
            rows.append([cell, max(map(len, columns)), *map(spread, columns)])
    for figure in (_BLIND, "shuffled"):
        columns = [answered(results, "unified", pairs, kind, figure) for kind in KINDS]
        if any(columns):
            rows.append([figure, max(map(len, columns)), *map(spread, columns)])
    return table([f"answers, {_TITLES[pairs]}", "seeds", *KINDS], rows)


def _drawings(results, pairs) -> str:
    """Formats drawings, with the reconstructions of the first model's tokenizer below them."""
    rows = []
    for cell in CELLS:
        columns = [drawn(results, cell, pairs, figure) for figure in _READ]
        if any(columns):
            rows.append([cell, max(map(len, columns)), *map(spread, columns)])
    if found := [each["examined"][pairs] for each in select(results, kind="model", cell="unified")]:
        columns = [
            [each["rebuilt"][name] for each in found if name in each["rebuilt"]] for name in _READ
        ]
        rows.append(["rebuilt", len(found), *map(spread, columns)])
    names = (name.replace("_", "-") for name in _READ)
    return table([f"drawn, {_TITLES[pairs]}", "seeds", *names], rows)


def _losses_and_guidance(results) -> str:
    """Formats held-out losses, and drawings by scales, of what a cell is trained for."""
    ways = [("drawn", f"{scale:g}", f"{scale:g}") for scale in SCALES]
    ways.append(("released", ways[-1][1], f"{ways[-1][1]}, released way"))
    rows = []
    for cell, made in CELLS.items():
        if found := select(results, kind="model", cell=cell):
            columns = [
                spread(each[key] for each in found if does)
                for key, does in (("text_loss", made.reads), ("image_loss", made.draws))
            ]
            columns += [
                spread(drawn(results, cell, pairs, "both", scale, way))
                for pairs in PAIRS
                for way, scale, _ in ways
            ]
            rows.append([cell, len(found), *columns])
    head = ["model", "seeds", "text loss", "image loss"]
    for pairs in PAIRS:
        first, *rest = (title for _, _, title in ways)
        head += [f"{_TITLES[pairs]}: both drawn, scale {first}", *rest]
    return table(head, rows)


def plot(results: list[dict], output: Path) -> None:
    """Plots answers and drawings of all cells, and of depth heads; a dot for each seed.

    Args:
      results: of `report.read`.
      output: folder that gets the files `PLOTS`.
    """
    pyplot = pyplot_for(output)
    panels: dict[str, Callable[[str, str], list[float]]] = {
        f"what {kind}? answered": lambda cell, pairs, kind=kind: answered(
            results, cell, pairs, kind
        )
        for kind in _ASKED
    }
    panels["colour and form drawn"] = lambda cell, pairs: drawn(results, cell, pairs, "both")
    there = [name for name in CELLS if select(results, kind="model", cell=name)]
    heads = [HEADS[blocks] for blocks in sorted(HEADS)]
    slanted = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    for file, names, ticks, line, form in (
        (PLOTS[0], there, there, "_", slanted),
        (PLOTS[1], heads, sorted(HEADS), "-", {}),
    ):
        figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.6), constrained_layout=True)
        for axis, (title, found) in zip(axes, panels.items(), strict=True):
            for pairs in PAIRS:
                _dots(axis, [found(cell, pairs) for cell in names], _TITLES[pairs], line)
            axis.set(title=title, ylim=(-0.03, 1.03))
            axis.set_xticks(range(len(names)), ticks, **form)
            axis.grid(alpha=0.3)
        axes[0].legend()
        figure.savefig(output / file, dpi=80)
        pyplot.close(figure)


def _dots(axis, columns: list[list[float]], label: str, style: str) -> None:
    """Plots a dot for each seed, and the means: as a line, or a mark each."""
    there = [place for place, values in enumerate(columns) if values]
    means = [statistics.mean(columns[place]) for place in there]
    (line,) = axis.plot(there, means, style, label=label)
    for place in there:
        values = columns[place]
        axis.plot([place] * len(values), values, "o", alpha=0.6, color=line.get_color())
