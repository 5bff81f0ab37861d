"""The benchmark of a multimodal model times what it says: the same answers, and full rows."""

import argparse

import jax
import numpy as np
import pytest

from benchmarks import multimodal, timing
from helpers import multimodals
from unitok_jax.models.sampling import Filters
from unitok_jax.multimodal.asking import stacked
from unitok_jax.multimodal.compiled import Answering, CompiledModel
from unitok_jax.weights import llama_layout
from unitok_jax.weights.torch_layout import to_torch

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize("kind", [{}, {"qkv_bias": True, "tied": True}], ids=["llama", "qwen2"])
def test_pytorch_answers_as_we_do(kind):
    """The likeliest ids with the same weights, of questions padded on the left and alone."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_multimodal import Answerer

    model = multimodals.model_keys(vocabulary=40, **kind)
    params = multimodals.parameters(model)
    theirs = Answerer(model)
    rows, fixed = llama_layout.rows(model), llama_layout.fixed_entries(params)
    state = to_torch(params, rows, fixed)
    state = {k: torch.tensor(a) for k, a in state.items() if not k.startswith("ar_head.")}
    theirs.load_state_dict(state)
    asked = multimodal.questions(model, 3, 8)
    assert [len(row.ids) for row in asked] == [13, 15, 17]
    made = CompiledModel(model, params, 3, jax.local_devices()[:1], "float32")
    prompt = stacked(asked, 2, multimodals.TOKENS, 1)
    settings = Answering(Filters(temperature=0.0), (), 5)
    (ours,) = made.answer(settings, 0, np.arange(3, dtype=np.uint32), prompt)
    for row, ids in zip(asked, ours.ids, strict=True):
        given = (torch.from_numpy(x.astype(np.int64)) for x in (row.ids, row.image_at, row.codes))
        np.testing.assert_array_equal(ids, theirs.answer(*given, 5).numpy())
    assert len(np.unique(ours.ids)) > 3 and (ours.count == 5).all()


def test_rows_of_training_are_full():
    """Drawings and questions in turn; what is counted grows with what is predicted alone."""
    config = timing.configuration("multimodal_shapes")
    config.data.batch_size = 2
    batch = multimodal.train_batch(config)
    assert (batch["segments"] > 0).mean() > 0.8
    images = batch["segments"].max()
    np.testing.assert_array_equal(
        batch["drawn"][:, :images].T, [[n % 2 == 0] * 2 for n in range(images)]
    )
    model = config.model.to_dict()
    whole = multimodal.model_flops(model, batch)
    less = multimodal.model_flops(model, batch | {"labels": np.full_like(batch["labels"], -100)})
    ids = np.count_nonzero(batch["labels"] != -100)
    assert whole - less == pytest.approx(6 * ids * model["width"] * model["vocabulary"])
    # Of every place and parameter of the blocks six operations, at the least.
    blocks = 4 * (192 * (6 + 2 * 3) * 32 + 192 * 192 + 3 * 192 * 512)
    assert 6 * blocks * batch["ids"].size < less < 12 * blocks * batch["ids"].size


def test_answers_and_drawings_run():
    args = argparse.Namespace(question=4, limit=2, scale=2.0, torch=False, rounds=1)
    model = multimodals.model_keys()
    row = multimodal.use_row("small", model, multimodals.parameters(model), "float32", 2, args)
    assert row["answer tokens/s"] == pytest.approx(2 * row["answers/s"]) and row["drawings/s"] > 0


def test_the_train_step_runs(monkeypatch):
    config = timing.configuration("multimodal_shapes")
    config.model.update(multimodals.model_keys())
    config.data.length = 64
    monkeypatch.setattr(timing, "configuration", lambda name, dtype: config)
    row = multimodal.train_row("small", "float32", 2, "products", 1, 1e9)
    assert (row["rows"], row["length"], row["remat"]) == (2, 64, "products")
    assert row["of peak"] == pytest.approx(row["model TFLOP"] * 1e3 / row["s"])
