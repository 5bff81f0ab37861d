"""Turns the images of a data set into codes on disk, for generators to train on.

`unitok tokenize --checkpoint=DIR --data=SOURCE:PATH --output=DIR` writes shards of
codes; the same command again continues. Any number of hosts may share the work, started as those of
a training run with one shared --output. `unitok_jax.open_codes(DIR)` reads them.
"""

import argparse
import collections
import contextlib
import pathlib
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from unitok_jax.codes import STRIDE
from unitok_jax.commands import arguments
from unitok_jax.data.codes import files as code_files
from unitok_jax.data.codes import shards
from unitok_jax.data.codes.batches import ShardedViews, of_shards
from unitok_jax.data.codes.views import VIEWS
from unitok_jax.data.health import Tally
from unitok_jax.data.records import Source, subset
from unitok_jax.data.sources import check_no_class, open_source
from unitok_jax.data.writing.facts import all_facts, shards_of
from unitok_jax.data.writing.folders import claim
from unitok_jax.system.paths import printable
from unitok_jax.system.progress import Progress


def tokenize(
    tokenizer,
    source: Source,
    data,
    settings: dict,
    output: pathlib.Path,
    *,
    max_bad: float = 0.0,
    process: int = 0,
    processes: int = 1,
) -> dict:
    """Writes this process's shards, and the manifest once all are written; otherwise waits for it.

    Args:
      tokenizer: a `Tokenizer` on devices of this process.
      source: the source that `data` opens.
      data: the `data` config; its image size and threads are read.
      settings: the result of `data.codes.shards.plan` for all these.
      output: a folder claimed by `data.writing.folders.claim` for these settings.
      max_bad: the largest share of the samples that may be skipped.
      process, processes: shards process, process + processes, ... are this process's.

    Returns:
      the manifest.

    Raises:
      ValueError: too many bad samples, or a repeated key; no manifest is written.
      OSError: reading or writing failed.
    """

    def facts(number):
        return shards.shard_facts(output, settings, number)

    every = shards_of(settings)
    own = {number: facts(number) for number in every[process::processes]}
    missing = [number for number, found in own.items() if found is None]
    reader = ShardedViews(
        source,
        missing,
        settings["--shard_size"],
        tokenizer.batch_size,
        data.image_size,
        settings["--views"],
        settings["--crop_scale"] or 1.0,
    )
    total = sum(map(reader.samples, own))
    there = total - sum(map(reader.samples, missing))
    with (
        contextlib.closing(reader.stream(data)) as batches,
        Progress(total, "sample", there) as progress,
    ):
        coded = encoded(tokenizer, batches)
        for number, of_shard in of_shards(coded, reader, missing):
            told = _told(of_shard, progress)
            own[number] = shards.write_shard(output, settings, number, told)
    before = getattr(source, "tally", Tally())
    return shards.finish(output, settings, all_facts(every, own, facts), before, max_bad)


def encoded(tokenizer, batches: Iterable[dict]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (facts (n,), uint16 codes (n, views, K, N)) of each batch of `ShardedViews.stream`."""
    waiting = collections.deque()

    def images():
        for batch in batches:
            count, views = batch["image"].shape[:2]
            waiting.append((batch["facts"], count, views))
            flat = batch["image"].reshape(count * views, *batch["image"].shape[2:])
            for start in range(0, len(flat), count):
                yield flat[start : start + count]

    codes = []
    for piece in tokenizer.encode_batches(images()):
        codes.append(np.asarray(piece).astype(np.uint16))
        facts, count, views = waiting[0]
        if len(codes) == views:
            waiting.popleft()
            joined = np.concatenate(codes)
            yield facts, joined.reshape(count, views, *joined.shape[1:])
            codes = []


def _told(batches, progress) -> Iterator[tuple]:
    for samples, codes in batches:
        yield samples, codes
        progress.update(sum(sample is not None for sample in samples))


def settings_of(
    tokenizer,
    source: Source,
    data,
    *,
    storage: str,
    shard_size: int,
    views: str,
    crop_scale: float,
) -> dict:
    """Returns the settings that decide the bytes of the shards, as `data.codes.shards.plan`."""
    import jax

    rows, columns = (side // STRIDE for side in data.image_size)
    books, entries = tokenizer.codebook_shape
    return shards.plan(
        source,
        data,
        storage=storage,
        shard_size=shard_size,
        views=views,
        crop_scale=crop_scale,
        tokenizer={
            "tokenizer": tokenizer.hash,
            "precision": tokenizer.precision,
            # Both change the last bits of features, and so occasionally a code.
            "platform": jax.default_backend(),
            "images per device": tokenizer.batch_size // jax.local_device_count(),
            "grid": [rows, columns],
            "num_codebooks": books,
            "codebook_size": entries,
            "tokens": tokenizer.config.model.num_query + rows * columns,
        },
    )


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("tokenize", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_data(parser)
    parser.add_argument(
        "--output", required=True, type=arguments.path, help="folder for the shards"
    )
    parser.add_argument("--format", choices=sorted(code_files.SUFFIXES), default="array_record")
    parser.add_argument("--shard_size", type=int, default=10_000, help="samples per file")
    parser.add_argument("--views", choices=VIEWS, default="center", help="crops of each image")
    parser.add_argument(
        "--crop_scale", type=float, default=1.1, help="of --views=ten: sides that are cut from"
    )
    parser.add_argument("--size", help="N or HEIGHTxWIDTH; default: the model's")
    parser.add_argument("--batch_size", type=int, help="images at once on all devices of a process")
    parser.add_argument("--limit", type=int, help="so many samples at most, the first ones")
    parser.add_argument(
        "--max_bad", type=float, default=0.0, help="part of the samples that may be left out, 0..1"
    )
    arguments.add_cluster(parser)
    arguments.run(parser, _run, continues=True)


def _run(args: argparse.Namespace) -> None:
    import jax

    if not 0 <= args.max_bad <= 1:
        raise ValueError(f"--max_bad={args.max_bad} is a part of the samples: give 0..1")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit={args.limit} must be at least 1")
    arguments.connect(args)
    tokenizer = arguments.load_tokenizer(
        args, batch_size=args.batch_size, devices=jax.local_devices()
    )
    size = arguments.image_size(args.size) if args.size else tokenizer.image_size
    data = arguments.data(args, tokenizer, size)
    check_no_class(args.output, "--output", data)
    source = open_source(data, require_captions=False)
    if args.limit is not None:
        source = subset(source, range(min(args.limit, len(source))))
    settings = settings_of(
        *(tokenizer, source, data),
        storage=args.format,
        shard_size=args.shard_size,
        views=args.views,
        crop_scale=args.crop_scale,
    )
    output = args.output
    claim(output, settings, code_files.COMMAND)
    if shards.is_finished(output, settings):
        print(f"{printable(output)} is finished: nothing to do")
        return
    manifest = tokenize(
        tokenizer,
        source,
        data,
        settings,
        output,
        max_bad=args.max_bad,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    skipped = Tally.from_json(manifest["skipped"])
    files = len(manifest["shards"])
    print(f"codes of {manifest['count']} samples in {files} files in {printable(output)}")
    if skipped.total:
        print(f"{skipped.total} left out:\n{skipped}", file=sys.stderr)
