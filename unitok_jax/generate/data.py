"""Batches of codes for a generator, from folders that `unitok tokenize` wrote.

The position in the data is the step, as in `data.pipeline`: a batch is a function of (seed, step),
row by row the same for any number of processes, and nothing is saved for resuming.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unitok_jax.data import order
from unitok_jax.data.codes.records import CodeRecords, open_codes
from unitok_jax.data.health import Health, Notes
from unitok_jax.data.pipeline import Batches
from unitok_jax.data.reading import stream


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
        raise type(error)(f"{key}={path}: {error}") from error
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
    return records


def train_batches(
    data, seed: int, records: CodeRecords, model, *, start_step: int, rows: Sequence[int]
) -> Batches:
    """Opens this process's rows of the batches from `start_step` on, without end.

    Every epoch is a new permutation of the records; each is seen once in it, in one of its views,
    drawn anew.

    Args:
      data: `config.data`; `batch_size`, `num_threads` and `num_workers` are read.
      seed: at least 0.
      records: the codes.
      model: `config.model`.
      start_step: the first global batch.
      rows: ascending rows of the global batch that this process reads.

    Yields:
      {'codes': uint16 (len(rows), K, N), 'labels': int32 (len(rows),)}.
    """
    positions = order.order(records, seed, window=1)
    read = _Rows(records, positions, seed, model.classes)
    batches = stream(read, data.batch_size, rows, data, first_batch=start_step)
    return Batches(batches, Health(0.0))


class _Rows:
    """Reads the records at positions of the stream."""

    image_shape = (0,)  # there are none

    def __init__(self, records: CodeRecords, positions, seed: int, classes: int):
        self._records, self._order = records, positions
        self._seed, self._classes = seed, classes

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        codes, labels, notes = [], [], Notes()
        for position in positions:
            record = self._records[self._order[position]]
            rng = order.generator(self._seed, position)
            view = record["codes"][rng.integers(len(record["codes"]))]
            codes.append(view)
            labels.append(check_label(record, self._classes))
            notes.samples += 1
            notes.bytes += view.nbytes
        return {"codes": np.stack(codes), "labels": np.array(labels, np.int32), "notes": notes}


def check_label(record: dict[str, Any], classes: int) -> int:
    """Returns the label of a record.

    Raises:
      ValueError: it has none, or one that is no class of the model.
    """
    label = record["label"]
    if label is None:
        raise ValueError(
            f"the codes of {record['key']} have no label; tokenize --data=labelled:PATH"
        )
    if not 0 <= label < classes:
        raise ValueError(
            f"the codes of {record['key']} have label {label}, and model.classes={classes}: labels "
            f"are 0 to {classes - 1}"
        )
    return label


def eval_rows(records: CodeRecords, positions: Sequence[int], model) -> dict[str, np.ndarray]:
    """Reads records in order, in the view of the centre; past their end, rows are masked.

    Args:
      records: the codes.
      positions: of the rows.
      model: `config.model`.

    Returns:
      {'codes': uint16 (B, K, N), 'labels': int32 (B,), 'mask': bool (B,)}.
    """
    view = {"ten": 4}.get(records.manifest["settings"]["--views"], 0)
    last = len(records) - 1
    read = [records[min(position, last)] for position in positions]
    return {
        "codes": np.stack([record["codes"][view] for record in read]),
        "labels": np.array([check_label(record, model.classes) for record in read], np.int32),
        "mask": np.array([position <= last for position in positions]),
    }
