"""Reports of the suite: as tables, as JSON, and compared with a stored report."""

import json
import math
import pathlib
from collections.abc import Mapping

from benchmarks.roofline import least_seconds
from benchmarks.timing import table

GROUPS = {
    "encode": "encode, forward",
    "decode": "decode, forward",
    "train": "train step before the adversary acts, forward and backward",
    "adversary": "what the adversary adds to a step",
    "forward": "forward alone of what only training needs",
}
ABOUT = ("machine", "settings", "peaks")


def write(path: pathlib.Path, report: Mapping) -> None:
    """Writes a report with four digits of every float."""
    path.write_text(json.dumps(_rounded(report), indent=1) + "\n")


def read(path: pathlib.Path) -> dict:
    """Reads a report written by `write`.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not a report, or damaged.
    """
    again = "make it anew with `python -m benchmarks --output FILE`"
    if not path.is_file():
        raise FileNotFoundError(f"--compare={path} does not exist; {again}")
    try:
        report = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--compare={path} is not JSON ({error}); {again}") from error
    wrong = _wrong(report)
    if wrong:
        raise ValueError(f"--compare={path} is no report of this command: {wrong}; {again}")
    return report


def _wrong(report):
    if not isinstance(report, dict):
        return "it is not an object"
    for key in ABOUT:
        if not isinstance(report.get(key), dict):
            return f"it has no {key!r}"
    for key in ("float32", "bfloat16", "bytes"):
        if not _positive(report["peaks"].get(key)):
            return f"peaks.{key} is {report['peaks'].get(key)!r}"
    for path, row in measured(report).items():
        if not _positive(row["seconds"]):
            return f"{'.'.join(path)}.seconds is {row['seconds']!r}"
        for key in ("flops", "bytes"):
            if key in row and not (row[key] == 0 or _positive(row[key])):
                return f"{'.'.join(path)}.{key} is {row[key]!r}"
        if row.get("dtype", "float32") not in report["peaks"]:
            return f"{'.'.join(path)}.dtype is {row['dtype']!r}"
    return None


def _positive(value):
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def measured(report: Mapping, path: tuple = ()) -> dict[tuple, Mapping]:
    """Returns path -> dict for every dict of a report with `seconds`."""
    out = {path: report} if "seconds" in report else {}
    for key, value in report.items():
        if isinstance(value, Mapping):
            out |= measured(value, (*path, key))
    return out


def compare(report: Mapping, stored: Mapping) -> list[tuple]:
    """Compares times of a report with those of a stored one, of this machine or another.

    Returns:
      (figure, seconds, stored seconds, ratio) of every figure of either; None for values that one
      of them lacks. The ratio is of times in units of the least time of the stored work at the
      peaks of each run, so that a slower or busier machine hardly changes the ratio; below 1 is
      faster. Work without operations and bytes is scaled by the peak of matrix products.
    """
    new, old = measured(report), measured(stored)
    rows = []
    for path in dict.fromkeys([*new, *old]):
        ratio = None
        if path in new and path in old:
            work = old[path]
            ratio = new[path]["seconds"] / least_seconds(work, report["peaks"])
            ratio /= work["seconds"] / least_seconds(work, stored["peaks"])
        seconds = (side[path]["seconds"] if path in side else None for side in (new, old))
        rows.append((" ".join(path), *seconds, ratio))
    return rows


def print_comparison(report: Mapping, stored: Mapping) -> None:
    """Prints `compare`'s table, and other differences between the runs."""
    print("\n## Beside the stored run\n")
    for room in ("settings", "machine"):
        for key in dict.fromkeys([*report[room], *stored[room]]):
            here, there = report[room].get(key), stored[room].get(key)
            if here != there:
                print(f"{room}.{key}: {here}, stored {there}")
    print()
    print(table(["figure", "s", "stored s", "ratio at equal peaks"], compare(report, stored)))


def print_about(report: Mapping) -> None:
    """Prints the machine and its peaks."""
    peaks = report["peaks"]
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(", ".join(f"{key} {value}" for key, value in report["settings"].items()))
    print(
        f"peaks: {peaks['float32'] / 1e9:,.0f} GFLOP/s in float32, {peaks['bfloat16'] / 1e9:,.0f} "
        f"in bfloat16, {peaks['bytes'] / 1e9:.1f} GB/s",
        flush=True,
    )


def print_programs(programs: Mapping, peaks: Mapping) -> None:
    """Prints a row for each whole program."""
    columns = ["program", "batch", "s", "images/s", "GFLOP", "GFLOP/s", "model GFLOP"]
    columns += ["model GFLOP/s", "of peak", "GB", "XLA GFLOP", "XLA GB", "of roofline"]
    rows = []
    for name, row in programs.items():
        seconds, model = row["seconds"], row["model_flops"] / 1e9
        rows.append(
            [name, row["batch"], seconds, row["batch"] / seconds, row["flops"] / 1e9]
            + [row["flops"] / 1e9 / seconds, model, model / seconds]
            + [model * 1e9 / seconds / peaks[row["dtype"]], row["bytes"] / 1e9]
            + [row["xla_flops"] / 1e9, row["xla_bytes"] / 1e9, row["of_roofline"]]
        )
    print(table(columns, rows))


def print_stages(groups: Mapping) -> None:
    """Prints a table for each group of stages."""
    columns = ["stage", "s", "GFLOP", "GB", "FLOP/byte", "of roofline", "of whole"]
    for group, found in groups.items():
        if not found["stages"]:
            continue
        rows = [
            [name, row["seconds"], row["flops"] / 1e9, row["bytes"] / 1e9]
            + [row["flops"] / row["bytes"], row["of_roofline"], row["of_whole"]]
            for name, row in found["stages"].items()
        ]
        totals = [sum(row[i] for row in rows) for i in (2, 3)]
        share = found["sum"] / found["whole"] if found["whole"] else None
        rows.append(["sum", found["sum"], *totals, totals[0] / totals[1], None, share])
        rows.append(["whole", found["whole"], None, None, None, None, None])
        print(f"\n{GROUPS[group]}\n\n{table(columns, rows)}", flush=True)


def print_rest(found: Mapping) -> None:
    """Prints the results of any other section: a row for each part."""
    keys = list(dict.fromkeys(key for row in found.values() for key in row))
    rows = [[name, *(row.get(key) for key in keys)] for name, row in found.items()]
    print(table(["", *keys], rows))


def _rounded(value):
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
