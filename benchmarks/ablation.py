"""Ablations of the paper at a size that two CPU cores can train.

    python -m benchmarks.ablation --output runs/ablation.jsonl [--variants books1 books8] \
        [--seeds 0 1 2] [--steps 800] [--batch 32]
    python -m benchmarks.ablation --output runs/ablation.jsonl --report [--plot ablation.png]

Every variant is trained on drawn `shapes`, one to a picture, with the same number of steps, the
same pictures in the same order and the same seeds of the weights; it is evaluated on pictures of
held-out pairs of colour and shape. Each result is appended to the output when ready; existing
results are skipped, so a stopped benchmark resumes. `--report` prints the table.
"""

import argparse
import contextlib
import functools
import itertools
import json
import pathlib
import statistics
import time

IMAGES = 256  # images of the held-out pairs, for every evaluation
LPIPS_IMAGES = 64  # images for the distance by a VGG16 of random weights
ENTRIES = 1024  # total codebook rows, whatever the variant

# Differences from `base()`, as room.key.
VARIANTS = {
    "books1": {"model.num_codebooks": 1, "model.latent_width": 8, "model.quant_heads": 8},
    "books2": {"model.num_codebooks": 2, "model.latent_width": 16, "model.quant_heads": 4},
    "books4": {"model.num_codebooks": 4, "model.latent_width": 32, "model.quant_heads": 2},
    "books8": {},
    "linear": {"model.quant_proj": "linear"},
    "reconstruction": {"loss.contrastive": 0.0},
    "contrastive": {"loss.l1": 0.0, "loss.l2": 0.0},
    "residual": {"model.quantizer": "residual"},
    # 128 codes per chunk: 8 x 4 x 4 levels, or 7 bits
    "fsq": {"model.quantizer": "fsq", "model.latent_width": 24, "loss.entropy": 0.0},
    "bsq": {"model.quantizer": "bsq", "model.latent_width": 56},
}
COLUMNS = {
    "eval/psnr": "PSNR (dB)",
    "lpips_random": "1000 × LPIPS, random VGG",
    "eval/zero_shot_top1": "zero-shot top-1",
    "usage_min": "usage, least used book",
    "usage_mean": "usage, mean",
}


def base(steps: int, batch: int):
    """Returns the configuration of `books8`, the paper's: 8 codebooks, attention, both losses.

    Plain pixel losses: LPIPS and the discriminator are only meaningful with published weights.
    """
    from configs import shapes

    config = shapes.get_config()
    config.steps = steps
    config.model.size = "nano"
    config.model.vocab_size, config.model.num_codebooks = ENTRIES, 8
    config.model.latent_width, config.model.quant_heads = 64, 1
    config.data.image_size = (48, 48)
    config.data.batch_size = batch
    config.data.num_threads = 2
    config.eval.max_images = IMAGES
    return config


def configuration(variant: str, steps: int, batch: int):
    """Returns the configuration of a variant."""
    from configs import default

    return default.variant(base(steps, batch), VARIANTS, variant, "ablation")


class SingleShapes:
    """Training pictures of a single shape, which a small model learns in minutes."""

    def __init__(self, count: int):
        """Selects the first `count` pictures of a single shape."""
        from unitok_jax.data.formats.shapes import TrainingShapes

        self._source = TrainingShapes()
        single = (i for i in itertools.count() if len(self._source.scene(i).shapes) == 1)
        self._indices = list(itertools.islice(single, count))

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._source[self._indices[index]]


@functools.cache
def training_batches(steps: int, batch: int) -> list[dict]:
    """Reads the batches of every run from the pipeline, once."""
    from unitok_jax.data.pipeline import train_batches

    data = base(steps, batch).data
    with contextlib.closing(train_batches(data, 0, source=SingleShapes(steps * batch))) as batches:
        return list(itertools.islice(batches, steps))


def run_variant(variant: str, seeds: list[int], steps: int, batch: int):
    """Trains a variant with every seed; yields (seed, record). Compiles once for all of them."""
    import jax
    import numpy as np

    from unitok_jax.data.pipeline import eval_batches
    from unitok_jax.runtime import sharding
    from unitok_jax.tokenizer.run import Run
    from unitok_jax.tokenizer.step import init_params
    from unitok_jax.weights import pretrained

    config = configuration(variant, steps, batch)
    run = Run(config)
    init = jax.jit(lambda key: run.steps.start(init_params(run.steps.model, key), None))
    graph, vgg = pretrained.load("lpips", pretrained.SEEDED, "float32", key="", turn_off="")
    distance = jax.jit(functools.partial(_distance, graph, run.steps.graph))
    source = run.eval_images.source
    with contextlib.closing(eval_batches(source, config.data, LPIPS_IMAGES)) as pictures:
        pictures = next(pictures)["image"]
    for seed in seeds:
        state = init(jax.random.key(seed))
        batches = training_batches(steps, batch)
        started = time.perf_counter()
        for step, arrays in enumerate(batches):
            state, metrics = run.train_step(step, state, sharding.shard_batch(arrays, run.mesh))
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - started
        evaluation, _ = run.evaluate(state)
        record = {f"eval/{key}": np.asarray(value).tolist() for key, value in evaluation.items()}
        usage = np.asarray(record["eval/usage"])
        record |= {
            "lpips_random": float(distance(vgg, state.params, pictures)),
            "usage_min": float(usage.min()),
            "usage_mean": float(usage.mean()),
            "loss": float(metrics["loss"]),
            "skipped": int(metrics["skipped"]),
            "seconds": round(seconds, 1),
        }
        if not (config.loss.l1 or config.loss.l2):
            # The decoder is not trained.
            record |= {"eval/psnr": None, "lpips_random": None}
        yield seed, record


def _distance(lpips, unitok, vgg, params, pictures):
    import jax.numpy as jnp
    from flax import nnx

    from unitok_jax.models.images import to_float

    images = to_float(pictures)
    rebuilt, _, _ = nnx.merge(unitok, params).reconstruct(images)
    return jnp.mean(nnx.merge(lpips, vgg)(jnp.clip(rebuilt, -1, 1), images))


def read(path: pathlib.Path) -> list[dict]:
    """Reads the records of an output; empty if the file does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spread(values: list[float], factor: float = 1) -> str:
    """Formats mean ± standard deviation over seeds, both times `factor`."""
    values = [factor * value for value in values if value is not None]
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def report(records: list[dict]) -> str:
    """Formats a Markdown table, one row per variant."""
    lines = [
        "| variant | seeds | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for variant in VARIANTS:
        chosen = [record for record in records if record["variant"] == variant]
        if chosen:
            cells = (
                spread([record.get(column) for record in chosen], 1000 if "lpips" in column else 1)
                for column in COLUMNS
            )
            lines.append(f"| `{variant}` | {len(chosen)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(records: list[dict], path: str) -> None:
    """Plots a dot per seed, a column of dots per variant, a panel per figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in VARIANTS if any(r["variant"] == name for r in records)]
    columns = ("eval/psnr", "eval/zero_shot_top1", "usage_mean")
    figure, axes = pyplot.subplots(1, len(columns), figsize=(13, 3.6), constrained_layout=True)
    for axis, column in zip(axes, columns, strict=True):
        for x, name in enumerate(names):
            values = [r.get(column) for r in records if r["variant"] == name]
            values = [value for value in values if value is not None]
            axis.plot([x] * len(values), values, "o", alpha=0.7, color="tab:blue")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_title(COLUMNS[column])
        axis.grid(alpha=0.3)
    axes[1].axhline(1 / 16, color="grey", linestyle="--", label="chance")
    axes[1].legend()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Runs the missing variants, or reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a .jsonl file")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--plot", help="with --report: a picture to write; needs matplotlib")
    arguments = parser.parse_args()
    budget = {"steps": arguments.steps, "batch": arguments.batch}
    if not arguments.report:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        for variant in arguments.variants:
            done = {
                record["seed"]
                for record in read(arguments.output)
                if record["variant"] == variant and budget.items() <= record.items()
            }
            missing = [seed for seed in arguments.seeds if seed not in done]
            for seed, record in run_variant(variant, missing, **budget) if missing else ():
                with arguments.output.open("a") as file:
                    file.write(json.dumps({"variant": variant, "seed": seed} | budget | record))
                    file.write("\n")
                print(variant, seed, {column: record.get(column) for column in COLUMNS}, flush=True)
    records = [record for record in read(arguments.output) if budget.items() <= record.items()]
    print(report(records))
    if arguments.plot:
        plot(records, arguments.plot)


if __name__ == "__main__":
    main()
