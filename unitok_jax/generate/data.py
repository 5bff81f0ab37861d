"""Batches of codes for a generator, from folders that `unitok tokenize` wrote.

The position in the data is the step, as in `data.pipeline`: a batch is a function of (seed, step),
row by row the same for any number of processes, and nothing is saved for resuming.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unitok_jax.data import order
from unitok_jax.data.codes.records import CodeRecords, open_codes
from unitok_jax.data.codes.views import CENTRE
from unitok_jax.data.health import Health, Notes
from unitok_jax.data.patience import read_patiently
from unitok_jax.data.pipeline import Batches
from unitok_jax.data.reading import stream
from unitok_jax.system.passing import with_text


def open_records(path: str, key: str, model) -> CodeRecords:
    """Opens a folder of codes and checks that they are those of a model.

    Args:
      path: the folder.
      key: of `path` in the configuration, for messages.
      model: `config.model`; its codebooks, grid and kind of prompt are read.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the folder is not whole, or its codes do not fit the model.
    """
    if not path:
        raise ValueError(
            f"{key} is empty; name a folder of codes: unitok tokenize --views=ten --output={key}"
        )
    try:
        records = open_codes(path)
    except (ValueError, OSError) as error:
        raise with_text(error, f"{key}={path}: {error}") from error
    if not len(records):
        raise ValueError(f"{key}={path} holds no codes")
    books, rows = records.codebook_shape
    found = {
        "model.num_codebooks": (model.num_codebooks, books),
        "model.vocab_size": (model.vocab_size, books * rows),
        "model.grid": (tuple(model.grid), records.grid),
    }
    for name, (ours, theirs) in found.items():
        if ours != theirs:
            raise ValueError(f"{name}={ours}, but the codes of {key}={path} have {theirs}; set it")
    settings = records.manifest["settings"]
    if settings["tokens"] != math.prod(records.grid):
        raise ValueError(
            f"the codes of {key}={path} have {settings['tokens']} tokens for a grid of "
            f"{records.grid}: those of a tokenizer with model.num_query=0 are wanted"
        )
    if model.prompt == "class":
        _check_classes(settings.get("class_names"), f"{key}={path}", model.classes)
    return records


def _check_classes(names, where: str, classes: int) -> None:
    if names is None:
        raise ValueError(
            f"the codes of {where} have no labels; tokenize --data=labelled:PATH, or set "
            "model.prompt=text"
        )
    if len(names) > classes:
        raise ValueError(
            f"the codes of {where} are of {len(names)} classes; set model.classes={len(names)}, "
            f"not {classes}"
        )


def train_batches(
    data,
    seed: int,
    records: CodeRecords,
    prompts: Callable,
    *,
    start_step: int,
    rows: Sequence[int],
) -> Batches:
    """Opens this process's rows of the batches from `start_step` on, without end.

    Every epoch is a new permutation of the records; each is seen once in it, in one of its views
    and with one of its captions, drawn anew.

    Args:
      data: `config.data`; `batch_size`, `num_threads` and `num_workers` are read.
      seed: at least 0.
      records: the codes.
      prompts: reads the prompt of a record, as those of `generate.prompts`.
      start_step: the first global batch.
      rows: ascending rows of the global batch that this process reads.

    Yields:
      {'codes': uint16 (len(rows), K, N)} and the prompts, as `prompts` returns them, stacked.
    """
    read = _Rows(records, order.order(records, seed, window=1), seed, prompts)
    batches = stream(read, data.batch_size, rows, data, first_batch=start_step)
    return Batches([batches], Health(0.0))


class _Rows:
    """Reads the records at positions of the stream."""

    image_shape = (0,)  # there are none

    def __init__(self, records: CodeRecords, positions, seed: int, prompts: Callable):
        self._records, self._order = records, positions
        self._seed, self._prompts = seed, prompts

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        rows, notes = [], Notes()
        for position in positions:
            record = read_patiently(self._records.__getitem__, self._order[position])
            rng = order.generator(self._seed, position)
            view = record["codes"][rng.integers(len(record["codes"]))]
            rows.append({"codes": view} | self._prompts(record, rng))
            notes.samples += 1
            notes.bytes += view.nbytes
        return _stacked(rows) | {"notes": notes}


def eval_rows(
    records: CodeRecords, positions: Sequence[int], prompts: Callable
) -> dict[str, np.ndarray]:
    """Reads records in order, in the view of the centre; past their end, rows are masked.

    Args:
      records: the codes.
      positions: of the rows.
      prompts: as for `train_batches`; the first of several captions is taken.

    Returns:
      {'codes': uint16 (B, K, N), 'mask': bool (B,)} and the prompts.
    """
    view = CENTRE[records.manifest["views"]]
    last = len(records) - 1
    rows = []
    for position in positions:
        record = records[min(position, last)]
        rows.append({"codes": record["codes"][view], "mask": np.bool_(position <= last)})
        rows[-1] |= prompts(record)
    return _stacked(rows)


def _stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
