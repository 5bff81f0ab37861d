"""FID and the inception score against the reference's numbers and independent formulas."""

import numpy as np
import pytest
import scipy.linalg

from helpers import parity
from unitok_jax.evaluation.metrics.frechet import FeatureMoments, Moments, frechet_distance
from unitok_jax.evaluation.metrics.inception_score import inception_score

pytestmark = pytest.mark.usefixtures("strict_shapes")


def moments(features, sizes=None):
    measure = FeatureMoments()
    for batch in np.split(features, np.cumsum(sizes or [])):
        measure.update(batch)
    return measure.result()


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    squares = ((a.mean - b.mean) ** 2).sum()
    return squares + np.trace(a.covariance + b.covariance - 2 * root)


class TestMoments:
    def test_equal_numpy_in_any_batches(self):
        features = np.random.default_rng(0).normal(1000, 1, (50, 4))  # a mean far above the spread
        ours = moments(features, [1, 7, 0, 20])
        np.testing.assert_allclose(ours.mean, features.mean(0), rtol=1e-13)
        np.testing.assert_allclose(ours.covariance, np.cov(features, rowvar=False), rtol=1e-10)
        assert ours.count == 50
        assert ours.mean.dtype == ours.covariance.dtype == np.float64

    def test_padding_counts_nothing(self):
        features = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        padded = FeatureMoments()
        padded.update(np.full((2, 3), np.nan, np.float32), np.zeros(2, bool))
        padded.update(features, np.array([True, True, False, True, True, False]))
        plain = moments(features[[0, 1, 3, 4]])
        np.testing.assert_allclose(padded.result().covariance, plain.covariance, rtol=1e-12)
        assert padded.result().count == 4

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_images(self, count):
        with pytest.raises(ValueError, match=f"at least 2 images, and there are {count}"):
            moments(np.ones((count, 3)))

    def test_features_that_do_not_fit(self):
        measure = FeatureMoments()
        with pytest.raises(ValueError, match=r"\(3,\); they must be \(B, D\)"):
            measure.update(np.ones(3))
        measure.update(np.ones((2, 3)))
        with pytest.raises(ValueError, match=r"\(2, 4\); they must be \(B, 3\)"):
            measure.update(np.ones((2, 4)))
        with pytest.raises(ValueError, match="not finite"):
            measure.update(np.array([[1, 2, np.inf]]))


class TestFrechetDistance:
    def test_parity(self):
        golden = parity.load("inception")
        a = moments(golden["fid_a"], [64, 64, 1, 50])
        b = moments(golden["fid_b"], [31, 100])
        assert frechet_distance(a, b) == pytest.approx(float(golden["fid"]), rel=1e-8)
        assert frechet_distance(b, a) == pytest.approx(float(golden["fid"]), rel=1e-8)

    def test_agrees_with_sqrtm(self):
        rng = np.random.default_rng(1)
        mixing = rng.normal(size=(12, 12))
        a, b = moments(rng.normal(size=(40, 12)) @ mixing), moments(rng.normal(2, 3, (30, 12)))
        assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)

    def test_fewer_images_than_features(self):
        """Singular covariances, whose roots have a closed form where they share their axes."""
        axes = np.linalg.qr(np.random.default_rng(2).normal(size=(20, 20)))[0]
        spread_a, spread_b = np.zeros(20), np.zeros(20)
        spread_a[:5], spread_b[3:9] = [1, 4, 9, 16, 25], [1, 2, 3, 4, 5, 6]
        a = Moments(np.zeros(20), axes * spread_a @ axes.T, 6)
        b = Moments(np.ones(20), axes * spread_b @ axes.T, 7)
        wanted = 20 + ((np.sqrt(spread_a) - np.sqrt(spread_b)) ** 2).sum()
        assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)

    def test_of_a_set_to_itself(self):
        same = moments(np.random.default_rng(3).normal(size=(10, 30)))
        assert 0 <= frechet_distance(same, same) < 1e-6

    def test_other_features(self):
        a, b = moments(np.eye(3)), moments(np.eye(4))
        with pytest.raises(ValueError, match="moments of 3 and of 4 features"):
            frechet_distance(a, b)


class TestInceptionScore:
    def test_parity(self):
        golden = parity.load("inception")
        mean, deviation = inception_score(golden["is_logits"], splits=5)
        assert mean == pytest.approx(float(golden["is_mean"]), rel=1e-6)
        assert deviation == pytest.approx(float(golden["is_std"]), rel=1e-6)

    def test_bounds(self):
        """Images alike score 1; images surely of C classes in turn score C."""
        assert inception_score(np.ones((20, 4)), splits=2) == pytest.approx((1, 0))
        sure = 1000.0 * np.eye(4)[np.arange(20) % 4]
        assert inception_score(sure, splits=1) == pytest.approx((4, 0))

    def test_order(self):
        """Sorted images leave one class to each split; the seed's order is RandomState's."""
        logits = np.random.default_rng(0).normal(0, 3, (60, 5))
        order = np.random.RandomState(2020).permutation(60)
        shuffled = inception_score(logits, splits=3, shuffle_seed=2020)
        assert shuffled == inception_score(logits[order], splits=3)
        assert shuffled != inception_score(logits, splits=3)

    def test_uneven_splits_use_every_image(self):
        logits = np.random.default_rng(0).normal(0, 3, (7, 5))
        parts = [inception_score(part, splits=1)[0] for part in (logits[:3], logits[3:])]
        assert inception_score(logits, splits=2) == pytest.approx((np.mean(parts), np.std(parts)))

    @pytest.mark.parametrize(
        "logits, splits, message",
        [
            (np.ones((3, 2)), 4, "splits=4 of 3 images"),
            (np.ones((3, 2)), 0, "splits=0"),
            (np.ones(3), 1, "must be"),
            (np.full((3, 2), np.nan), 1, "not finite"),
        ],
    )
    def test_what_does_not_fit(self, logits, splits, message):
        with pytest.raises(ValueError, match=message):
            inception_score(logits, splits)
