"""Cost of the index of tar shards: time to build, reads per second, and memory.

    python -m benchmarks.data_index [--folder /tmp] [--samples 10000] [--shards 100000]

Three tables of one line each, medians of three: the time to index one shard of `--samples` samples
(an image of 100 kB, a caption, a JSON), with its pages in the file cache and, as far as the system
drops them, without; random reads per second by one thread, from the file cache; and the memory of a
process, grain and jax imported, after unpickling a source of `--shards` shards of 1000 samples each
and looking up 100 000 random samples. The code that writes real indexes writes this index too, for
shards that do not exist. All files are written below `--folder` and deleted.
"""

import argparse
import io
import os
import pathlib
import pickle
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np

from unitok_jax.data.health import Tally
from unitok_jax.data.tars import index as tar_index
from unitok_jax.data.tars import index_files
from unitok_jax.data.tars.scan import ROW, CaptionRule
from unitok_jax.data.tars.shards import Shard
from unitok_jax.data.tars.source import TarSource, tar_source

_ROWS = 1000  # samples of a shard that does not exist
_LOOK = """
import pickle, resource, sys, time
import grain, jax, random
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
start = time.perf_counter()
source = pickle.load(open(sys.argv[1], "rb"))
rows = source._index.rows
seconds = time.perf_counter() - start
for _ in range(100_000): rows[random.randrange(len(source))]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(before, resident(), peak, seconds)
"""


def make_shard(path: pathlib.Path, samples: int) -> None:
    """Writes a WebDataset tar of random images, which do not decode."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for index in range(samples):
            for extension, size in (("jpg", 100_000), ("txt", 60), ("json", 700)):
                info = tarfile.TarInfo(f"{index:09}.{extension}")
                info.size = size
                content = rng.bytes(size) if extension == "jpg" else b"x" * size
                tar.addfile(info, io.BytesIO(content))


def drop_pages(path: pathlib.Path) -> None:
    """Drops a file's pages from the file cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def index_seconds(path: pathlib.Path, cached: bool) -> float:
    """Measures seconds to open a source of one shard without an index."""
    times = []
    for _ in range(3):
        if not cached:
            drop_pages(path)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            start = time.perf_counter()
            tar_source(str(path), index=folder)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def reads_per_second(path: pathlib.Path, count: int = 5000) -> float:
    """Measures random samples per second, by one thread."""
    source, rng, rates = tar_source(str(path)), np.random.default_rng(0), []
    for _ in range(3):
        order = rng.integers(len(source), size=count).tolist()
        start = time.perf_counter()
        for index in order:
            source[index]
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def memory(folder: pathlib.Path, shards: int) -> tuple[int, list[float]]:
    """Measures bytes of a pickled source, and (before, after, peak, seconds) of its loading."""
    found = [Shard(f"/data/datacomp/{n:08}.tar", 10**9 + n, 10**18 + n) for n in range(shards)]
    query = tar_index.Query("/data/datacomp/*.tar", CaptionRule(), True)
    state, rows, tally = query.name(found), np.zeros(_ROWS, ROW), Tally()
    tally.add("no_caption", "00000000.tar/000000000", 100)
    index_files.write(folder, state, found, ((rows, tally) for _ in found))
    data = pickle.dumps(TarSource(folder, state, index_files.load(folder, state)))
    (folder / "source.pickle").write_bytes(data)
    looks = []
    for _ in range(3):
        command = [sys.executable, "-c", _LOOK, str(folder / "source.pickle")]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        looks.append([float(word) for word in found.split()])
    return len(data), [statistics.median(column) for column in zip(*looks, strict=True)]


def main(arguments=None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=100_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path = pathlib.Path(name) / "0.tar"
        make_shard(path, options.samples)
        print("| shard, MB | index, s | index, not in the cache, s | random reads / s |")
        print("|---|---|---|---|")
        warm, cold = index_seconds(path, True), index_seconds(path, False)
        rate, size = reads_per_second(path), path.stat().st_size / 1e6
        print(f"| {size:.0f} | {warm:.2f} | {cold:.2f} | {rate:.0f} |")
        path.unlink()
        length, (before, after, peak, seconds) = memory(pathlib.Path(name), options.shards)
        print("\n| shards | samples | pickle, B | before, MB | held, MB | peak, MB | open, s |")
        print("|---|---|---|---|---|---|---|")
        sizes = " | ".join(f"{value / 1e6:.0f}" for value in (before, after, peak))
        samples = options.shards * _ROWS
        print(f"| {options.shards} | {samples:.0e} | {length} | {sizes} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
