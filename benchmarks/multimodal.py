"""Speed of a multimodal model: answers, beside the release's way, drawings, and the train step.

    python -m benchmarks.multimodal [--sizes shapes qwen_0p5b 7b] [--batches 8] [--limit 16]
        [--question 32] [--scale 7] [--dtype bfloat16] [--rounds 3] [--torch]
    python -m benchmarks.multimodal --train [--sizes qwen_0p5b] [--batches 16] [--remat none]

A question has one image and up to `--question` ids of text, half of them in the first of a batch:
the shorter ones are padded on the left. An answer has exactly `--limit` ids. `--torch` answers one
of the questions with `benchmarks.torch_multimodal` on the same device, in turns with ours: one
question at a time, without a cache, as UniTok's release does. A drawing has a text of `--question`
ids. A row of training holds drawings and questions in turn, until it is full. Sizes are those of
`configs/multimodal_SIZE.py`. Weights are random: they do not change the time.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import roofline, timing
from benchmarks.generate import fill
from unitok_jax.models import recomputation
from unitok_jax.models.sampling import Filters
from unitok_jax.multimodal import data, objective, packing
from unitok_jax.multimodal.asking import stacked
from unitok_jax.multimodal.compiled import Answering, CompiledModel, Drawing
from unitok_jax.multimodal.model import abstract_model
from unitok_jax.multimodal.prompt import IMAGE
from unitok_jax.multimodal.rows import Sample, expand
from unitok_jax.multimodal.step import MultimodalSteps
from unitok_jax.planning import flops

SIZES = ("shapes", "qwen_0p5b", "7b")
BOI, EOI, EOS, TEXT = 1, 2, 3, 10  # ids; those of text are TEXT or more
SAID = 5  # ids of an answer of the training, its end among them


def image_shape(model) -> tuple[int, int]:
    """Returns the codes of an image, (K, L)."""
    return model["num_codebooks"], math.prod(model["grid"])


def sample(model, before: int, after: int, said: int, drawn: bool, seed: int) -> Sample:
    """Makes a sample of one image with text before and behind it, and an answer of `said` ids."""
    rng = np.random.default_rng(seed)
    books, tokens = image_shape(model)
    entries = model["vocab_size"] // books
    text = rng.integers(TEXT, model["vocabulary"], before + after + said).tolist()
    ids = [*text[:before], BOI, IMAGE, EOI, *text[before:]]
    marks = [False] * before + [drawn] * 3 + [False] * after + [True] * said
    return expand(ids, marks, [rng.integers(0, entries, (books, tokens))], 0)


def questions(model, batch: int, longest: int) -> list[Sample]:
    """Makes questions of different lengths about an image each."""
    lengths = np.linspace(-(-longest // 2), longest, batch).astype(int)
    return [sample(model, 1, n, 0, False, seed) for seed, n in enumerate(lengths.tolist())]


def texts(model, batch: int, length: int) -> list[Sample]:
    """Makes texts that end where an image begins."""
    rng = np.random.default_rng(0)
    rows = rng.integers(TEXT, model["vocabulary"], (batch, length)).tolist()
    return [expand([*row, BOI], [False] * (length + 1), [], 0) for row in rows]


def calls(model, made: CompiledModel, batch: int, args) -> dict:
    """Returns calls that answer and draw a batch, by name."""
    (books, tokens), index = image_shape(model), np.arange(batch, dtype=np.uint32)
    asked = stacked(questions(model, batch, args.question), books, tokens, 1)
    described = stacked(texts(model, batch, args.question), books, tokens, 1)
    null = stacked(texts(model, 1, 3) * batch, books, tokens, 1)
    scale = np.full((tokens, books), args.scale, np.float32)
    # No id ends an answer: all have as many.
    answering = Answering(Filters(temperature=0.0), (), args.limit)
    guided = args.scale != 1
    drawing = Drawing(Filters(), guided, False)

    def answer():
        return list(made.answer(answering, 0, index, asked))

    def draw():
        return list(made.draw(drawing, 0, index, described, null if guided else None, scale))

    return {"answer": answer, "draw": draw}


def torch_call(model, batch: int, dtype: str, args):
    """Returns a call that answers the question of middle length with PyTorch, in the same dtype."""
    import torch

    from benchmarks.torch_multimodal import Answerer

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    with torch.device(device):
        network = Answerer(model).in_dtype(getattr(torch, dtype))
    row = questions(model, batch, args.question)[batch // 2]
    given = [torch.tensor(x.astype(np.int64), device=device) for x in (row.ids, row.image_at)]
    codes = torch.tensor(row.codes.astype(np.int64), device=device)

    def call():
        return network.answer(*given, codes, args.limit).cpu()

    return call


def use_row(size: str, model, params, dtype: str, batch: int, args) -> dict:
    """Measures answers and drawings of one batch."""
    made = CompiledModel(model, params, batch, jax.local_devices()[:1], dtype)
    run = calls(model, made, batch, args)
    if args.torch:
        run["torch"] = torch_call(model, batch, dtype, args)
    seconds = timing.medians(run, args.rounds)
    row = {
        "size": size,
        "batch": batch,
        "answer s": seconds["answer"],
        "answers/s": batch / seconds["answer"],
        "answer tokens/s": batch * args.limit / seconds["answer"],
        "draw s": seconds["draw"],
        "drawings/s": batch / seconds["draw"],
    }
    if args.torch:
        row["PyTorch, s an answer"] = seconds["torch"]
        row["PyTorch's time / ours"] = seconds["torch"] * batch / seconds["answer"]
    return row


def train_batch(config) -> dict[str, np.ndarray]:
    """Makes a batch whose rows hold drawings and questions in turn, until they are full."""
    model, length = config.model, config.data.length
    images = data.images_of(config.data, image_shape(model)[1])
    rows = []
    for number in range(config.data.batch_size):
        held, room = [], length
        while len(held) < images:
            drawn = len(held) % 2 == 0
            parts = (20, 0, 1) if drawn else (1, 12, SAID)
            made = sample(model, *parts, drawn, seed=number * images + len(held))
            if len(made.ids) > room:
                break
            held.append(made)
            room -= len(made.ids)
        if not held:
            raise ValueError(f"data.length={length} has no room for an image and its text")
        shape = image_shape(model)
        filled = packing.fill(held, length=length, images=images, image_shape=shape, pad=0)
        rows.append(filled)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def model_flops(model, batch) -> float:
    """Counts the operations of a train step: three times those of the forward pass.

    Those of logits are of the ids and codes that are predicted; padding is run as text is.
    """
    graph, params = abstract_model(dict(model) | {"remat": "none"})
    drawn = int(objective.drawn_tokens(batch))
    hidden = jax.ShapeDtypeStruct((drawn, model["width"]), jnp.dtype(model["dtype"]))
    codes = jax.ShapeDtypeStruct((drawn, model["num_codebooks"]), jnp.int32)

    def trunk(params, rows):
        return nnx.merge(graph, params).hidden(*(rows[key] for key in objective.INPUTS))

    def head(params, *rows):
        return nnx.merge(graph, params).head(*rows)

    counted = flops.count(trunk, params, batch) + flops.count(head, params, hidden, codes)
    ids = float(objective.predicted_ids(batch))
    return 3 * (counted + 2 * ids * model["width"] * model["vocabulary"])


def train_row(size: str, dtype: str, batch: int, remat: str, rounds: int, peak: float) -> dict:
    """Measures the train step; everything but the codebooks is trained."""
    config = timing.configuration(f"multimodal_{size}", dtype)
    config.model.remat, config.data.batch_size, config.optim.accumulation = remat, batch, 1
    steps, rows = MultimodalSteps(config), train_batch(config)
    abstract = jax.eval_shape(steps.init)
    job = roofline.Job(steps.train_step, (abstract, rows), dtype, donate=(0,))
    ((program, work),) = roofline.compiled({"step": job}).values()
    state = jax.jit(steps.init)()
    state = state.replace(step=jnp.asarray(config.steps // 2, jnp.int32))
    placed = jax.device_put(rows)
    seconds = timing.train_medians({"step": program}, state, (placed,), rounds)["step"]
    needed = model_flops(steps.model, rows)
    return {
        "size": size,
        "rows": batch,
        "length": config.data.length,
        "remat": remat,
        "s": seconds,
        "tokens/s": int((rows["segments"] > 0).sum()) / seconds,
        "images/s": int((rows["image_at"] >= 0).sum()) / image_shape(steps.model)[1] / seconds,
        "model TFLOP": needed / 1e12,
        "of peak": needed / seconds / peak,
        "temporaries GiB": work["temporary_bytes"] / 2**30,
        "compile s": work["compile_seconds"],
    }


def main() -> None:
    """Measures, and prints a row after each measurement and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: shapes on a CPU")
    parser.add_argument("--batches", nargs="+", type=int, default=[8])
    parser.add_argument("--question", type=int, default=32, help="ids of the longest text")
    parser.add_argument("--limit", type=int, default=16, help="ids of an answer")
    parser.add_argument("--scale", type=float, default=7.0, help="of guidance, 1: none")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by the device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="PyTorch too, in turns")
    parser.add_argument("--train", action="store_true", help="the train step instead")
    parser.add_argument("--remat", nargs="+", choices=recomputation.BLOCKS, default=["blocks"])
    args = parser.parse_args()
    on_cpu = jax.default_backend() == "cpu"
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    sizes = args.sizes or ["shapes" if on_cpu else "qwen_0p5b"]
    peaks = timing.peaks(0.5)
    print(timing.machine(), peaks, flush=True)
    rows = []
    for size in sizes:
        if args.train:
            settings = [(batch, remat) for batch in args.batches for remat in args.remat]
            found = (
                train_row(size, dtype, batch, remat, args.rounds, peaks[dtype])
                for batch, remat in settings
            )
        else:
            model = timing.configuration(f"multimodal_{size}", dtype).model.to_dict()
            params = fill(abstract_model(model)[1])
            found = (use_row(size, model, params, dtype, batch, args) for batch in args.batches)
        for row in found:
            rows.append(row)
            print(row, flush=True)
    print(timing.table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
