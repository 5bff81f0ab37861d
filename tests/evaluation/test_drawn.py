"""Measures of drawn images against plain formulas."""

import types

import jax
import numpy as np
import pytest
from flax import nnx

from unitok_jax.evaluation import drawn
from unitok_jax.evaluation.drawn import ImageFeatures, InceptionPass, generation_figures, gfid
from unitok_jax.runtime import sharding
from unitok_jax.weights import pretrained

COUNT = 13  # no multiple of the devices or of a batch


class Network:
    """Stand-in for Inception, of its widths: linear features of the mean of 64 blocks of pixels."""

    def __init__(self):
        draw = np.random.default_rng(0).normal
        self.tables = {
            "pool3": draw(size=(192, 2048)),
            "spatial": draw(size=(192, 2023)),
            "logits_unbiased": draw(size=(192, 1008)),
        }

    def __call__(self, images):
        n, h, w, _ = images.shape
        blocks = images.reshape(n, 8, h // 8, 8, w // 8, 3) / np.float32(255)
        means = blocks.mean(axis=(2, 4)).reshape(n, -1)
        found = {key: means @ table.astype(np.float32) for key, table in self.tables.items()}
        return types.SimpleNamespace(**found)


@pytest.fixture(scope="module")
def inception():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn.nnx, "merge", lambda graph, params: Network())
        made = InceptionPass({}, sharding.make_mesh(-1, 1), batch_size=5)  # 8: one a device
        made([pictures(0)])  # compiled while the patch holds
    return made


@pytest.mark.slow
def test_features_of_inception():
    params = pretrained.load("inception", "seeded", "float32", key="-", turn_off="-")[1]
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:2])
    found = InceptionPass(params, mesh, batch_size=1)([pictures(0)[:2]])
    graph = pretrained.abstract("inception", "float32")[0]
    one = jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, pictures(0)[:1])
    wanted = {"rows": one.pool3, "logits": one.logits_unbiased}
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(found, name)[:1], value, rtol=1e-4, atol=1e-5)
    # The mean lies as far from one image as from the other.
    np.testing.assert_allclose(
        4 * ((found.spatial.mean - np.asarray(one.spatial[0])) ** 2).sum(),
        2 * np.trace(found.spatial.covariance),
        rtol=1e-3,
    )


def pictures(seed, low=0):
    """Blocks of colour, (13, 32, 48, 3) uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(low, 256, (COUNT, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def both(inception):
    """Features of drawn images, and of a reference."""
    return inception([pictures(0)]), inception([pictures(1, low=60)])


def by_formula(a, b):
    """Fréchet distance of rows of features, by the singular values of A B^T."""
    (a, mean_a), (b, mean_b) = (
        ((x - x.mean(0)) / np.sqrt(len(x) - 1), x.mean(0)) for x in map(np.float64, (a, b))
    )
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((mean_a - mean_b) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap


def test_figures_are_the_formulas(inception, both):
    figures = generation_figures(*both)
    assert figures["gfid"] == pytest.approx(by_formula(both[0].rows, both[1].rows), rel=1e-6)
    tables, features = Network().tables["spatial"], []
    for images in (pictures(0), pictures(1, low=60)):
        means = images.reshape(COUNT, 8, 4, 8, 6, 3).mean(axis=(2, 4)).reshape(COUNT, -1) / 255
        features.append(means @ tables)
    assert figures["sfid"] == pytest.approx(by_formula(*features), rel=1e-4)
    shares = np.exp(both[0].logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    scores = []
    for split in range(10):
        part = shares[split * COUNT // 10 : (split + 1) * COUNT // 10]
        divergence = (part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()
        scores.append(np.exp(divergence))
    assert figures["inception_score"] == pytest.approx(np.mean(scores), rel=1e-9)
    assert figures["inception_score_std"] == pytest.approx(np.std(scores), rel=1e-6)
    assert figures["precision"] != figures["recall"]
    there = generation_figures(both[1], both[0])
    assert (there["precision"], there["recall"]) == (figures["recall"], figures["precision"])
    assert there["sfid"] == pytest.approx(figures["sfid"], rel=1e-9) and figures["sfid"] > 0


def test_batches_change_nothing(inception, both):
    parts = np.split(pictures(0), [1, 2, 12])
    found = inception(iter(parts))
    np.testing.assert_allclose(found.rows, both[0].rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits, both[0].logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found.spatial.covariance, both[0].spatial.covariance, rtol=1e-4, atol=1e-6
    )
    assert found.pool3.count == COUNT


def test_rows_are_kept_where_they_are_asked_for(inception, both):
    found = inception([pictures(0)], keep=[0, 7, 8, 12], logits=False)
    np.testing.assert_array_equal(found.rows, both[0].rows[[0, 7, 8, 12]])
    np.testing.assert_array_equal(found.pool3.mean, both[0].pool3.mean)
    assert found.logits is None


def test_in_training(inception, both):
    figures = gfid([pictures(0)], both[1].pool3, inception)
    expected = generation_figures(*both)
    assert figures == {
        key: pytest.approx(expected[key])
        for key in ("gfid", "inception_score", "inception_score_std")
    }
    assert set(gfid([pictures(0)[:9]], both[1].pool3, inception)) == {"gfid"}


def test_the_order_moves_the_inception_score_alone(both):
    order = np.random.default_rng(0).permutation(COUNT)
    turned = both[0]._replace(rows=both[0].rows[order], logits=both[0].logits[order])
    before, after = generation_figures(*both), generation_figures(turned, both[1])
    assert after.pop("inception_score") != before.pop("inception_score")
    del after["inception_score_std"], before["inception_score_std"]
    assert after == before


def test_moments_alone(both):
    moments = [ImageFeatures(features.pool3) for features in both]
    assert set(generation_figures(*moments)) == {"gfid"}


@pytest.mark.parametrize(
    "batches, words",
    [
        ([np.zeros((2, 32, 32, 3), np.float32)], "images are float32"),
        ([np.zeros((2, 32, 32), np.uint8)], "must be uint8"),
        ([np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 16, 16, 3), np.uint8)], "one size"),
        ([], "at least 2 images"),
    ],
)
def test_images_that_do_not_fit(inception, batches, words):
    with pytest.raises(ValueError, match=words):
        inception(batches)


def test_nothing_goes_to_the_host_by_itself(inception):
    with jax.transfer_guard_device_to_host("disallow"):
        inception([pictures(0)])
    assert drawn.SPLITS == 10
