"""Tables and plots of the results of `experiments.recipes`."""

import statistics
from pathlib import Path

from experiments.recipe_cells import BASE, CELLS, DATA, steps_at_equal_time
from experiments.report import pyplot_for, select, spread, table

PLOTS = ("recipes.png",)
AT = {"pictures": "equal pictures", "time": "equal time"}
FIGURES = {
    "psnr": "PSNR (dB)",
    "zero_shot_top1": "zero-shot top-1",
    "image_to_text": "image to text",
    "usage_mean": "usage",
    "bits_per_token": "bits a token",
    "rebuilt_form": "form rebuilt",
    "probe_colour": "probe: colour",
    "probe_form": "probe: form",
}
_DECIMALS = {"psnr": 2, "bits_per_token": 1}
_PLOTTED = ("psnr", "zero_shot_top1", "probe_form")


def tables(results: list[dict]) -> str:
    """Formats the results as Markdown: for each kind of data the figures of every recipe, and the
    differences from the base of the same seed."""
    texts = []
    for data in DATA:
        for at in AT:
            if found := values(results, data, at):
                texts.append(_figures(results, found, data, at))
                texts.append(_differences(found, data, at))
    return "\n\n".join(texts)


def values(results: list[dict], data: str, at: str) -> dict[str, dict[int, dict[str, float]]]:
    """Lists figures by cell and seed, in the order of `CELLS`.

    Args:
      results: of `report.read`.
      data: one of `DATA`.
      at: a key of `AT`. A recipe whose step takes the base's time has one result for both.
    """
    found = {}
    for name in CELLS:
        wanted = {"kind": "recipe", "data": data, "cell": name}
        of_seed = {each["seed"]: each["figures"] for each in select(results, **wanted, at=at)}
        if not of_seed and at == "time" and _as_fast(results, data, name):
            same = select(results, **wanted, at="pictures")
            of_seed = {each["seed"]: each["figures"] for each in same}
        if of_seed:
            found[name] = of_seed
    return found


def differences(found: dict, name: str, figure: str) -> list[float]:
    """Lists what a cell has more than the base of the same seed, of the seeds that both have."""
    base = found.get(BASE, {})
    return [
        figures[figure] - base[seed][figure]
        for seed, figures in found.get(name, {}).items()
        if figure in figures and figure in base.get(seed, {})
    ]


def _as_fast(results, data, name) -> bool:
    prices = select(results, kind="price", data=data, cell=name)
    return any(steps_at_equal_time(price, 10**6) == 10**6 for price in prices)


def _figures(results, found, data, at) -> str:
    rows = []
    for name, of_seed in found.items():
        columns = [
            spread((f[key] for f in of_seed.values() if key in f), _DECIMALS.get(key, 2))
            for key in FIGURES
        ]
        rows.append([f"`{name}`", len(of_seed), _time(results, data, name), *columns])
    head = [f"{data}, {AT[at]}", "seeds", "time of a step", *FIGURES.values()]
    return table(head, rows)


def _time(results, data, name) -> str:
    prices = select(results, kind="price", data=data, cell=name)
    return spread((price["seconds"] / price["base"] for price in prices), 2)


def _differences(found, data, at) -> str:
    rows = []
    for name in found:
        if name != BASE:
            columns = [
                signed(differences(found, name, key), _DECIMALS.get(key, 2)) for key in FIGURES
            ]
            rows.append([f"`{name}`", *columns])
    return table([f"{data}, {AT[at]}: more than the base", *FIGURES.values()], rows)


def signed(values: list[float], decimals: int) -> str:
    """Formats a mean difference with its sign, ± the standard deviation over seeds."""
    text = spread(values, decimals)
    return f"+{text}" if values and statistics.mean(values) >= 0 else text


def plot(results: list[dict], output: Path) -> None:
    """Plots differences from the base: a dot for each seed, a row of panels for each kind of data.

    Args:
      results: of `report.read`.
      output: folder that gets the files `PLOTS`.
    """
    pyplot = pyplot_for(output)
    there = [data for data in DATA if values(results, data, "pictures")]
    figure, axes = pyplot.subplots(
        *(len(there), len(_PLOTTED)),
        figsize=(4 * len(_PLOTTED), 4 * len(there)),
        constrained_layout=True,
        squeeze=False,
    )
    for row, data in zip(axes, there, strict=True):
        for axis, key in zip(row, _PLOTTED, strict=True):
            names = [name for name in values(results, data, "pictures") if name != BASE]
            for at, mark in zip(AT, "ox", strict=True):
                found = values(results, data, at)
                for place, name in enumerate(names):
                    dots = differences(found, name, key)
                    axis.plot(dots, [place] * len(dots), mark, color="C0", alpha=0.6)
            axis.set_yticks(range(len(names)), names)
            axis.axvline(0, color="grey")
            axis.set(title=f"{data}: {FIGURES[key]}, more than the base")
            axis.grid(alpha=0.3)
    figure.savefig(output / PLOTS[0], dpi=80)
    pyplot.close(figure)
