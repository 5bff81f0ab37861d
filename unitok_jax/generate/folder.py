"""A folder of samples: codes in shards, pictures of them, and an archive for evaluators.

`codes` in it is what `open_codes` reads, and what drawing continues from: a sample is a function of
its number, so that a shard that a kill cut short is drawn again to the same bytes. Pictures follow
from the codes, in the files that `evaluation.samples` names; `generation.json` is written last.
"""

import concurrent.futures
import contextlib
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.data.codes import files as code_files
from unitok_jax.data.codes import shards
from unitok_jax.data.codes.records import CodeRecords, open_codes, records_of
from unitok_jax.data.health import Tally
from unitok_jax.data.writing.facts import shards_of
from unitok_jax.data.writing.folders import sweep, write_bytes
from unitok_jax.data.writing.npz import Rows, write_npz
from unitok_jax.evaluation import samples
from unitok_jax.evaluation.samples import Generation
from unitok_jax.generate.api import Sampler
from unitok_jax.pictures.sheet import contact_sheet, load_font
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.progress import Progress

FORMAT = "unitok_jax.drawn"
NAMED, PARTS = "named", "parts"
COMMAND = "unitok generate"
POLL = 0.5  # seconds between checks of the other processes' files
# Who writes what: commands with another --write, which may run at once, leave it alone.
_MADE = {
    f"{samples.PICTURES}/*": {"png"},
    f"{NAMED}/*": {"png"},
    f"{samples.ARCHIVE}.*": {"npz"},
    f"{PARTS}/*": {"npz"},
    f"{samples.SHEET}.*": {"png", "npz"},
}
_SHEET = 24  # samples on the contact sheet
_WRITERS = 8  # threads that write pictures


class Classes(NamedTuple):
    """Prompts of classes, by the number of the sample."""

    labels: np.ndarray  # int32 (n,)

    window = 1  # batches drawn at once

    def arguments(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Returns the arguments of `Sampler.sample` for samples."""
        return {"labels": self.labels[list(numbers)]}

    def record(self, number: int) -> dict[str, Any]:
        """Returns what a record of codes tells of a sample's prompt."""
        return {"label": int(self.labels[number]), "captions": ()}


class Texts(NamedTuple):
    """Prompts of texts, by the number of the sample; repeated in turn."""

    texts: Sequence[str]
    encode: Callable[[Sequence[str]], dict[str, Any]]  # as `Sampler.text_prompts`
    window: int = 1  # batches drawn at once: more, where texts of one length share batches

    def arguments(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Returns the arguments of `Sampler.sample` for samples."""
        return self.encode([self.texts[number % len(self.texts)] for number in numbers])

    def record(self, number: int) -> dict[str, Any]:
        """Returns what a record of codes tells of a sample's prompt."""
        return {"label": None, "captions": (self.texts[number % len(self.texts)],)}


class Folder:
    """A folder that `data.writing.folders.claim` has claimed for `settings`."""

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        kinds: Sequence[str],
        process: int = 0,
        processes: int = 1,
        names: Sequence[str] = (),
    ):
        """Describes the folder; nothing is written.

        Args:
          path: of the folder.
          settings: as of `settings_of`.
          kinds: 'codes', and any of 'png' and 'npz'.
          process, processes: shards process, process + processes, ... are this process's.
          names: of the pictures of the first samples in the folder `named`, for a scorer.
        """
        self.path, self.settings, self.kinds = path, settings, kinds
        self.process, self.processes = process, processes
        self.codes, self.coded = path / samples.CODES, codes_settings(settings)
        self.shards = shards_of(self.coded)
        self.count = self.coded["samples"]
        rows, columns = self.coded["grid"]
        self.size = (STRIDE * rows, STRIDE * columns)
        names = names[: self.count] if "png" in kinds else ()
        self.named = [path / NAMED / name for name in names]

    def numbers_of(self, shard: int) -> range:
        """Returns the numbers of the samples in a shard."""
        size = self.coded["--shard_size"]
        return range(shard * size, min((shard + 1) * size, self.count))

    def picture(self, number: int) -> Path:
        """Returns the path of a sample's picture."""
        return self.path / samples.PICTURES / f"{name_of(number)}.png"

    def part(self, shard: int) -> Path:
        """Returns the path of a shard's pixels, which wait for the archive."""
        return self.path / PARTS / f"{shard:06}.pixels"

    @property
    def archive(self) -> Path:
        """Path of the archive for evaluators."""
        return self.path / samples.ARCHIVE

    @property
    def sheet(self) -> Path:
        """Path of the contact sheet."""
        return self.path / samples.SHEET

    def facts(self, shard: int) -> dict | None:
        """Returns the facts of a shard of codes that is whole."""
        return shards.shard_facts(self.codes, self.coded, shard)

    def missing(self, some: Iterable[int]) -> dict[int, set[str]]:
        """Returns the kinds of which something is not written yet, of those of `some` shards.

        The folder of pictures is listed once, whatever the number of shards: on a shared disk a
        look at each file takes minutes.
        """
        folder = self.picture(0).parent
        is_png = "png" in self.kinds and folder.is_dir()
        pictures = set(os.listdir(folder)) if is_png else set()
        has_archive = self.archive.is_file()
        found = {}
        for shard in some:
            kinds = set()
            if self.facts(shard) is None:
                kinds.add("codes")
            names = {f"{name_of(number)}.png" for number in self.numbers_of(shard)}
            if "png" in self.kinds and not names <= pictures:
                kinds.add("png")
            if "npz" in self.kinds and not has_archive and not self._has_part(shard):
                kinds.add("npz")
            if kinds:
                found[shard] = kinds
        return found

    def _has_part(self, shard: int) -> bool:
        expected = 3 * self.size[0] * self.size[1] * len(self.numbers_of(shard))
        try:
            return self.part(shard).stat().st_size == expected
        except FileNotFoundError:
            return False

    def is_finished(self) -> bool:
        """Returns True if everything that was asked for is there."""
        try:
            written = parse_object((self.path / samples.SETTINGS).read_bytes(), samples.SETTINGS)
        except (FileNotFoundError, ValueError):
            return False  # missing or damaged: it is written again
        return (
            written.get("settings") == self.settings
            and shards.is_finished(self.codes, self.coded)
            and not self.missing(self.shards)
            and ("npz" not in self.kinds or self.archive.is_file())
            and (self.kinds == ["codes"] or self.sheet.is_file())
            and all(path.is_file() for path in self.named)
        )


def name_of(number: int) -> str:
    """Returns the name of a sample: key of its codes and stem of its picture."""
    return f"{number:06}"


def settings_of(sampler: Sampler, tokenizer, drawing: dict[str, Any], count: int, shard_size: int):
    """Returns the settings that decide the bytes of a folder, as JSON values.

    Args:
      sampler: the generator.
      tokenizer: the `Tokenizer` of the pictures, or None.
      drawing: further ones, by the flags that gave them.
      count: number of samples.
      shard_size: samples in a file of codes.

    Raises:
      ValueError: a value out of its range, or nothing that tells the tokenizer of the codes.
    """
    if not sampler.tokenizer_hash and not tokenizer:
        raise ValueError(
            "the generator does not tell whose codes it draws, and a folder of codes must: give "
            "--tokenizer, or bind it with unitok convert --tokenizer"
        )
    books, entries = sampler.codebook_shape
    if count < 1:
        raise ValueError(f"--count={count} must be at least 1")
    if shard_size < 1:
        raise ValueError(f"--shard_size={shard_size} must be at least 1 sample")
    if entries > code_files.MAX_ROWS:
        raise ValueError(f"codes are stored as uint16, and the codebooks have {entries} entries")
    settings = {
        "format": FORMAT,
        "version": code_files.VERSION,
        "generator": sampler.hash,
        "tokenizer": sampler.tokenizer_hash or tokenizer.hash,
        "precision": sampler.precision,
        # Both change the last bits of logits, and so occasionally a draw.
        "platform": jax.default_backend(),
        "samples per device": sampler.batch_size // jax.local_device_count(),
        "samples": count,
        **drawing,
        "--format": "array_record",
        "--views": "center",
        "--shard_size": shard_size,
        "grid": list(sampler.grid),
        "num_codebooks": books,
        "codebook_size": entries,
        "tokens": sampler.grid[0] * sampler.grid[1],
    }
    return json.loads(json.dumps(settings))


def codes_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the folder's codes, as `data.codes` reads them."""
    return settings | {"format": code_files.FORMAT}


def generation(settings: dict[str, Any]) -> Generation:
    """Returns what a folder's evaluation needs to know of its `settings`."""
    scale, first = settings["--scale"], settings["--guided_tokens"]
    constant = isinstance(scale, int | float)
    schedule = "constant" if constant else f"a schedule of shape {np.shape(scale)}"
    return Generation(
        checkpoint_hash=settings["generator"],
        tokenizer_hash=settings["tokenizer"],
        count=settings["samples"],
        labels=settings["prompts"],
        scale=float(np.max(scale)),
        guidance=schedule if first is None else f"{schedule}, the first {first} tokens",
        temperature=settings["--temperature"],
        top_k=settings["--top_k"] or 0,
        top_p=settings["--top_p"],
        key=settings["--key"],
        rounding=settings["--rounding"],
    )


def draw(
    sampler: Sampler,
    tokenizer,
    folder: Folder,
    prompts: Classes | Texts,
    settings: dict[str, Any],
) -> None:
    """Draws this process's samples and pictures; returns once all of the folder is written.

    Args:
      sampler: the generator.
      tokenizer: the `Tokenizer` of the pictures; None if only codes are written.
      folder: what to write.
      prompts: of the samples.
      settings: further arguments of `Sampler.sample`.

    Raises:
      OSError: reading or writing failed.
    """
    draw_own(sampler, tokenizer, folder, prompts, settings)
    if folder.process:
        while not folder.is_finished():
            time.sleep(POLL)
        return
    left = folder.shards
    while left := folder.missing(left):
        time.sleep(POLL)
    finish(tokenizer, folder)


def draw_own(sampler, tokenizer, folder: Folder, prompts, settings) -> None:
    """Draws the shards of this process that are missing, and their pictures."""
    own = folder.shards[folder.process :: folder.processes]
    todo = folder.missing(own)
    to_draw = [folder.numbers_of(shard) for shard, kinds in todo.items() if "codes" in kinds]
    codes = _drawn(sampler, prompts, settings, [*itertools.chain(*to_draw)])
    total = sum(len(folder.numbers_of(shard)) for shard in own)
    left = sum(len(folder.numbers_of(shard)) for shard in todo)
    with Progress(total, "sample", total - left) as progress:
        for shard, kinds in todo.items():
            if "codes" in kinds:
                batches = _batches(codes, prompts, folder.numbers_of(shard), progress)
                shards.write_shard(folder.codes, folder.coded, shard, batches)
            else:
                progress.update(len(folder.numbers_of(shard)))
            if kinds := kinds - {"codes"}:
                _render(tokenizer, folder, shard, kinds)


def finish(tokenizer, folder: Folder) -> None:
    """Writes what follows from all shards: manifests, the contact sheet and the archive."""
    facts = [folder.facts(shard) for shard in folder.shards]
    shards.finish(folder.codes, folder.coded, facts, Tally(), max_bad=0.0)
    codes = open_codes(folder.codes)
    if folder.kinds != ["codes"] and not folder.sheet.is_file():
        write_bytes(folder.sheet, _png(_sheet(tokenizer, codes[:_SHEET], folder.settings)))
    for number, path in enumerate(folder.named):
        _link(folder.picture(number), path)
    if "npz" in folder.kinds and not folder.archive.is_file():
        try:
            _archive(folder, codes)
        except FileNotFoundError:
            # Another process that finished the same folder has removed the parts.
            if not folder.archive.is_file():
                raise
    if "npz" in folder.kinds:
        # Before the folder counts as finished: together they are as large as the archive.
        for shard in folder.shards:
            folder.part(shard).unlink(missing_ok=True)
    generation(folder.settings).write(folder.path, settings=folder.settings)
    sweep(folder.path, [each for each, kinds in _MADE.items() if not kinds & {*folder.kinds}])
    if "npz" in folder.kinds:
        with contextlib.suppress(OSError):
            folder.part(0).parent.rmdir()


def _drawn(sampler, prompts, settings, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yields the codes (K, N) of samples; batches go across the borders of shards."""
    size = prompts.window * sampler.batch_size
    for start in range(0, len(numbers), size):
        chunk = numbers[start : start + size]
        yield from np.asarray(
            sampler.sample(**prompts.arguments(chunk), index=np.array(chunk), **settings)
        )


def _batches(codes: Iterator[np.ndarray], prompts, numbers: range, progress) -> Iterator[tuple]:
    """Yields the samples of a shard, one by one, as `shards.write_shard` takes them."""
    for number, row in zip(numbers, itertools.islice(codes, len(numbers)), strict=True):
        sample = {"name": name_of(number), **prompts.record(number)}
        yield [sample], row.astype(np.uint16)[None, None]
        progress.update()


def _render(tokenizer, folder: Folder, shard: int, kinds: set[str]) -> None:
    """Writes the pictures of a shard from its codes on disk."""
    records = records_of(folder.codes, folder.coded, [folder.facts(shard)])
    numbers = folder.numbers_of(shard)
    codes = np.concatenate([records[row]["codes"] for row in range(len(numbers))])
    images = decoded(tokenizer, codes, folder.settings)
    if "png" in kinds:
        folder.picture(0).parent.mkdir(exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(_write_picture, map(folder.picture, numbers), images))
    if "npz" in kinds and not folder.archive.is_file():  # the same command may run twice
        folder.part(0).parent.mkdir(exist_ok=True)
        write_bytes(folder.part(shard), images.tobytes())


def decoded(tokenizer, codes: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Decodes codes (B, K, N) to pixels, uint8 (B, H, W, 3), by one program for any B."""
    size, pixels = tokenizer.batch_size, []
    grid, rounded = tuple(settings["grid"]), samples.ROUNDINGS[settings["--rounding"]]
    for start in range(0, len(codes), size):
        piece = codes[start : start + size].astype(np.int32)
        images = tokenizer.compiled.start("decode", piece, size, grid)
        pixels.append(rounded(np.asarray(images)[: len(piece)]))
    return np.concatenate(pixels)


def _write_picture(path: Path, image: np.ndarray) -> None:
    write_bytes(path, _png(Image.fromarray(image)))


def _link(picture: Path, path: Path) -> None:
    """Gives a picture a second name, or copies it where a disk has no links."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(picture, path)
    except FileExistsError:
        return  # another process that finished the same folder was faster
    except OSError:
        write_bytes(path, picture.read_bytes())


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _sheet(tokenizer, codes: CodeRecords, settings: dict[str, Any]) -> Image.Image:
    records = list(codes)
    images = decoded(tokenizer, np.concatenate([r["codes"] for r in records]), settings)
    captions = [r["captions"][0] if r["captions"] else f"class {r['label']}" for r in records]
    return contact_sheet(images, captions, [False] * len(records), load_font())


def _archive(folder: Folder, codes: CodeRecords) -> None:
    """Writes `samples.npz`: arr_0 the pixels (n, H, W, 3), and arr_1 the labels, if any."""
    shape = (folder.count, *folder.size, 3)

    def parts():
        for shard in folder.shards:
            pixels = np.fromfile(folder.part(shard), np.uint8)
            yield pixels.reshape(len(folder.numbers_of(shard)), *shape[1:])

    arrays = {"arr_0": Rows(shape, np.uint8, parts())}
    labels = [record["label"] for record in codes]
    if None not in labels:
        labels = np.array(labels, np.int64)
        arrays["arr_1"] = Rows(labels.shape, np.int64, [labels])
    write_npz(folder.archive, arrays)
