"""Table of docs/guides/what_it_costs.md: what whole runs cost on named machines.

    python -m benchmarks.price_list            # prints it
    python -m benchmarks.price_list --write    # into the page

Steps are traced, neither compiled nor run: a minute or two on two quiet cores.
"""

import argparse
import pathlib
import runpy
from typing import NamedTuple

from unitok_jax.main import PRODUCTS
from unitok_jax.planning import costs, price_list
from unitok_jax.system import markdown

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "what_it_costs.md"
HEAD = ["run", "machine", "samples/s", "hours", "chip-hours", "figure", "command"]
_GPUS, _TPUS = ("cpu:1", "rtx4090:1", "h100:1", "h100:8"), ("v5e:4x4", "v5e:16x16")


class Run(NamedTuple):
    """Run of the table: a configuration, and the machines whose rows are shown."""

    name: str
    config: str  # as of --config
    keys: dict[str, object]  # set beside it
    machines: tuple[str, ...]

    @property
    def command(self) -> str:
        """Command that prints these rows among others."""
        keys = "".join(f" --config.{key}={value}" for key, value in self.keys.items())
        return f"unitok fit --config={self.config}{keys}"

    def configuration(self):
        """Returns the configuration with its keys."""
        file, _, variant = self.config.partition(":")
        config = runpy.run_path(str(ROOT / file))["get_config"](*filter(None, [variant]))
        config.update_from_flattened_dict(self.keys)
        return config


_EPOCH = {"steps": 1_250_000}  # of 1024 images: 1.28 billion
RUNS = (
    Run("UniTok-B", "configs/b16_gpu.py:80", _EPOCH, _GPUS),
    Run(
        *("UniTok-B", "configs/b16.py"),
        *({"model.remat": "everything", "optim.accumulation": 4}, _TPUS),
    ),
    Run("UniTok-L", "configs/l16_h100.py", _EPOCH, _GPUS),
    Run("UniTok-L", "configs/l16.py", {}, _TPUS),
    Run("generator XXL", "configs/generate_xxl.py", {}, ("h100:1", "h100:8", "v5e:16x16")),
    Run("multimodal 7B", "configs/multimodal_7b.py:pretrain", {}, ("h100:8", "v5e:16x16")),
)


def rows(number: int) -> list[list[str]]:
    """Returns the table's rows of `RUNS[number - 1]`."""
    run = RUNS[number - 1]
    config = run.configuration()
    counted = costs.count(PRODUCTS[config.product]().plan, config)
    return [
        [run.name, m.name, *price_list.figures(config, m, e), e.kind, number]
        for m, e in costs.estimates(config, counted)
        if m.name in run.machines
    ]


def commands() -> str:
    """Returns the commands of all runs, numbered, as a block of Markdown."""
    lines = [f"{run.command}  # {number}" for number, run in enumerate(RUNS, 1)]
    return "\n".join(["```", *lines, "```"])


def write(table: str) -> None:
    """Puts the commands and a table into the page, between its headings."""
    before, rest = PAGE.read_text().split("\n## The list\n")
    after = rest.partition("\n## ")[2]
    PAGE.write_text(f"{before}\n## The list\n\n{commands()}\n\n{table}\n\n## {after}")


def main() -> None:
    """Prints the table, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into the page")
    arguments = parser.parse_args()
    body = [row for number in range(1, len(RUNS) + 1) for row in rows(number)]
    table = markdown.table(HEAD, body)
    write(table) if arguments.write else print(table)


if __name__ == "__main__":
    main()
