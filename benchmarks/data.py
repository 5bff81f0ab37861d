"""Speed, similarity to Pillow and coverage of the training input.

    python -m benchmarks.data speed [--seconds 20] [--rounds 5] [--cores 2]
    python -m benchmarks.data quality
    python -m benchmarks.data coverage [--shards 2000] [--hosts 16] [--workers 4]

`speed` reads tars of 512x384 JPEGs with captions into batches of 256 px with token ids, on two
cores, in three ways that take turns: this package; webdataset with Pillow's decoder and bicubic
resize and open_clip's tokenizer in a PyTorch DataLoader with a worker per core; and, as a bound,
this package's decoder and resize alone, on encoded images in memory. `speed` needs
`pip install webdataset open_clip_torch` besides the `torch` and `demo` extras. Pictures are cut
from the photographs inside scikit-image and from noise with the spectrum of photographs.

`quality` compares this package's crops with Pillow's antialiased bicubic of the same boxes.

`coverage` reads three epochs with all processes of a job, counts every sample, and resumes at
random positions with as many and with fewer processes.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from configs import default
from unitok_jax.data.formats.photos import CAPTIONS, photo_folder
from unitok_jax.data.images import crops
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source

SIZE = 256
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)
WORDS = "a the red old small wooden photo painting of with and near street house dog tree".split()


def photographs(count: int, size: tuple[int, int] = (512, 384), real: bool = True):
    """Yields (name, JPEG) pairs: parts of real photographs, and noise, of (width, height).

    Only noise, which needs no scikit-image, unless `real`.
    """
    rng = np.random.default_rng(0)
    names = [name for name in CAPTIONS if name not in ("clock_motion.png", "cell.png") and real]
    pictures = [Image.open(photo_folder() / name).convert("RGB") for name in names]
    for index in range(count):
        which = index % (len(pictures) + 1)
        if which == len(pictures):
            name, picture = "noise", _noise(rng, size)
        else:
            name, picture = names[which], _part(pictures[which], rng, size)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=int(rng.integers(80, 96)))
        yield name, out.getvalue()


def _part(picture, rng, size):
    scale = max(1.0, size[0] / picture.width, size[1] / picture.height)
    picture = picture.resize(
        (math.ceil(picture.width * scale), math.ceil(picture.height * scale)),
        Image.Resampling.LANCZOS,
    )
    left = int(rng.integers(picture.width - size[0] + 1))
    top = int(rng.integers(picture.height - size[1] + 1))
    return picture.crop((left, top, left + size[0], top + size[1]))


def _noise(rng, size):
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1])))
    frequency[0, 0] = np.inf
    planes = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal(size[::-1])) / frequency).real
        for _ in range(3)
    ]
    image = np.stack([0.8 * planes[0] + 0.3 * plane for plane in planes], -1)
    return Image.fromarray(np.clip(image / image.std() * 50 + 128, 0, 255).astype(np.uint8))


def write_tars(
    folder: pathlib.Path, shards: int, per_shard: int, pictures: int = 256, real: bool = True
) -> str:
    """Tars of different photographs as img2dataset writes them; returns their pattern."""
    images = [data for _, data in photographs(pictures, real=real)]
    chance = random.Random(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for index in range(per_shard):
                key = f"{shard:05}{index:04}"
                caption = " ".join(chance.choices(WORDS, k=chance.randint(5, 20))) + f" {key}"
                _add(tar, f"{key}.jpg", images[(shard * per_shard + index) % len(images)])
                _add(tar, f"{key}.txt", caption.encode())
                _add(tar, f"{key}.json", json.dumps({"caption": caption, "key": key}).encode())
    return f"{folder}/{{00000..{shards - 1:05}}}.tar"


def _add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


# -- speed: each contender is a process of its own ------------------------------------------------


def ours(pattern: str, cores: int, seconds: float) -> float:
    """Measures images per second of this package's pipeline."""
    data = _data(pattern, batch_size=256)
    data.num_threads = cores
    with contextlib.closing(train_batches(data, 0)) as batches:
        return _rate((len(batch["image"]) for batch in batches), seconds)


def bare(pattern: str, cores: int, seconds: float) -> float:
    """Measures images per second of decoding and resizing alone, in one process per core."""
    with concurrent.futures.ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(_bare, [pattern] * cores, [seconds] * cores))


def _bare(pattern, seconds):
    cv2.setNumThreads(1)
    source = open_source(_data(pattern, batch_size=256))
    images = [source[index]["image"] for index in range(0, len(source), 2)]
    rng = np.random.default_rng(0)

    def crop():
        for data in itertools.cycle(images):
            crops.decode_random_crop(data, "", (SIZE, SIZE), rng, SCALE, RATIO)
            yield 1

    return _rate(crop(), seconds)


def webdataset_and_pillow(pattern: str, cores: int, seconds: float, floats=False) -> float:
    """Measures images per second of a PyTorch pipeline with Pillow and a pure-Python tokenizer."""
    import torch
    import webdataset

    # The package's own import needs torchvision; its tokenizer does not.
    package = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("clip_tokenizer", f"{package}/tokenizer.py")
    clip = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clip)
    tokenize, rng = clip.SimpleTokenizer(), np.random.default_rng(0)

    def image(data):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        top, left, height, width = crops.random_box(
            (picture.height, picture.width), (SIZE, SIZE), rng, SCALE, RATIO
        )
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(picture))
        if not floats:
            return pixels
        pixels = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return pixels.sub_(0.5).div_(0.5)

    def text(data):
        return tokenize([data.decode()])[0]

    dataset = (
        webdataset.WebDataset(pattern, shardshuffle=100, resampled=True)
        .shuffle(1000)
        .to_tuple("jpg", "txt")
        .map_tuple(image, text)
        .batched(64, collation_fn=torch.utils.data.default_collate)
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=cores)
    return _rate((len(images) for images, _ in loader), seconds)


def _rate(counts, seconds):
    """Returns the sum of counts per second, after a first quarter of the time."""
    begun, seen, since = time.perf_counter(), 0, None
    for count in counts:
        now = time.perf_counter()
        if since is not None:
            seen += count
        elif now - begun > seconds / 4:
            since = now
        if now - begun > seconds:
            return seen / (now - since)


CONTENDERS = {
    "ours": ours,
    "webdataset + Pillow": webdataset_and_pillow,
    "the same, to floats": functools.partial(webdataset_and_pillow, floats=True),
    "bare decode + resize": bare,
}


def rates(pattern: str, names, rounds: int, cores: int, seconds: float) -> dict[str, list[float]]:
    """Measures images per second of each contender in each round; contenders take turns."""
    open_source(_data(pattern))  # makes the index, which benchmarks/data_index.py times
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.data", "contend", "--name", name]
            command += ["--pattern", pattern, "--cores", str(cores), "--seconds", str(seconds)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(float(output.split()[-1]))
    return found


def measure(cores: int, rounds: int, seconds: float, pictures: int = 256) -> dict[str, dict]:
    """Measures the pipeline and bare decoding: {'images_per_second', 'seconds' per image}."""
    names = ["ours", "bare decode + resize"]
    with tempfile.TemporaryDirectory() as folder:
        pattern = write_tars(pathlib.Path(folder), 4, pictures, pictures)
        found = rates(pattern, names, rounds, cores, seconds)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        name: {"images_per_second": rate, "seconds": 1 / rate, "cores": cores}
        for name, rate in medians.items()
    }


def speed(args) -> None:
    """Prints the rates of all contenders, and their ratios to the usual pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        pattern = write_tars(pathlib.Path(folder), 16, 500)
        found = rates(pattern, CONTENDERS, args.rounds, args.cores, args.seconds)
    usual = statistics.median(found["webdataset + Pillow"])
    print(f"| images/s on {args.cores} cores | median | min | max | ratio |\n|---|---|---|---|---|")
    for name, values in found.items():
        median = statistics.median(values)
        print(
            f"| {name} | {median:.0f} | {min(values):.0f} | {max(values):.0f} "
            f"| {median / usual:.2f} |"
        )


def contend(args) -> None:
    """Runs one contender on the given cores, and prints its rate."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    print(CONTENDERS[args.name](args.pattern, args.cores, args.seconds))


# -- quality --------------------------------------------------------------------------------------


def quality(_) -> None:
    """Prints the differences of this package's crops from Pillow's."""
    print(
        "| pictures | pixels per pixel of the crop | PSNR, mean | PSNR, lowest |\n|---|---|---|---|"
    )
    for size in ((512, 384), (1024, 768), (2048, 1536)):
        values = collections.defaultdict(list)
        for index, (_, data) in enumerate(photographs(40, size)):
            for side in (512, 256, 192, 128):
                if side < size[1] * 1.4:
                    values[side].append(_psnr(data, (side, side), index))
        for side, found in values.items():
            print(
                f"| {size[0]}x{size[1]} | {size[0] / side:.1f} x {size[1] / side:.1f} "
                f"| {np.mean(found):.1f} dB | {min(found):.1f} dB |"
            )


def _psnr(data, size, seed):
    picture = Image.open(io.BytesIO(data))
    shape = (picture.height, picture.width)
    box = crops.random_box(shape, size, np.random.default_rng(seed), SCALE, RATIO)
    factor = crops.reduction(box, size)
    top, left, bottom, right = (
        factor * round(edge / factor) for edge in (box[0], box[1], box[0] + box[2], box[1] + box[3])
    )
    wanted = picture.crop((left, top, right, bottom)).resize(size[::-1], Image.Resampling.BICUBIC)
    rng = np.random.default_rng(seed)
    crop = crops.decode_random_crop(data, "", size, rng, SCALE, RATIO)
    error = np.mean((np.asarray(wanted, float) - crop) ** 2)
    return 10 * math.log10(255**2 / max(error, 1e-9))


# -- coverage -------------------------------------------------------------------------------------


def coverage(args) -> None:
    """Counts every sample over three epochs of a whole job, and resumes at random positions."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        length = _numbered_tars(folder, args.shards)
        data = _data(f"{folder}/{{00000..{args.shards - 1:05}}}.tar", batch_size=args.hosts * 12)
        data.image_size, data.num_workers = (16, 16), args.workers
        batch, epochs = data.batch_size, 3
        steps = math.ceil(epochs * length / batch)
        whole = np.zeros((steps, batch), np.int64)
        for host, rows in enumerate(tqdm(np.array_split(np.arange(batch), args.hosts), "hosts")):
            del host
            whole[:, rows] = _numbers(data, steps, rows)
        seen = np.bincount(whole.reshape(-1)[: epochs * length], minlength=length)
        print(f"{length} samples, {epochs} epochs: each seen {seen.min()} to {seen.max()} times")
        data.num_workers, wrong, chance = 0, 0, random.Random(0)
        for _ in tqdm(range(args.positions), "positions"):
            step, hosts = chance.randrange(steps - 1), chance.choice((args.hosts, args.hosts - 4))
            rows = chance.choice(np.array_split(np.arange(batch), hosts))
            wrong += not np.array_equal(_numbers(data, 1, rows, step)[0], whole[step, rows])
        print(
            f"{args.positions} positions with {args.hosts} or {args.hosts - 4} hosts: "
            f"{wrong} differ"
        )
        if wrong or seen.min() != epochs or seen.max() != epochs:
            raise SystemExit(1)


def _numbered_tars(folder, shards):
    """Writes tars of 4 to 9 tiny pictures whose captions are their numbers."""
    out, number, chance = io.BytesIO(), 0, random.Random(0)
    Image.new("RGB", (20, 20), (200, 30, 30)).save(out, "JPEG")
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for _ in range(chance.randint(4, 9)):
                _add(tar, f"{number}.jpg", out.getvalue())
                _add(tar, f"{number}.txt", " ".join(f"{number:06}").encode())
                number += 1
    return number


def _numbers(data, steps, rows, start_step=0):
    """Reads the numbers of the samples of some steps, (steps, len(rows)), from token ids."""
    digits = {token: digit for digit, token in enumerate(range(271, 281))}
    batches = train_batches(data, 7, rows=rows, start_step=start_step)
    with contextlib.closing(batches):
        texts = np.stack([next(batches)["text"] for _ in range(steps)])[..., 1:7]
    value = np.vectorize(digits.__getitem__)(texts)
    return (value * 10 ** np.arange(5, -1, -1)).sum(-1)


def _data(pattern: str, **values):
    config = default.get_config()
    data = config.data
    data.source, data.path, data.image_size = "tar", pattern, (SIZE, SIZE)
    data.num_threads = 2
    for key, value in values.items():
        data[key] = value
    return data


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command in (speed, contend, quality, coverage):
        sub = commands.add_parser(command.__name__)
        sub.set_defaults(command=command)
        if command in (speed, contend):
            sub.add_argument("--cores", type=int, default=2)
            sub.add_argument("--seconds", type=float, default=20)
        if command is speed:
            sub.add_argument("--rounds", type=int, default=5)
        if command is contend:
            sub.add_argument("--name", choices=CONTENDERS, required=True)
            sub.add_argument("--pattern", required=True)
        if command is coverage:
            sub.add_argument("--shards", type=int, default=2000)
            sub.add_argument("--hosts", type=int, default=16)
            sub.add_argument("--workers", type=int, default=4)
            sub.add_argument("--positions", type=int, default=100)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
