"""The linear probe: what it can tell, what it cannot, and that it found the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unitok_jax.evaluation.metrics.probe import GRID, fit_logistic, fit_ridge, linear_probe

pytestmark = pytest.mark.slow

METHODS = ("logistic", "ridge")


def clusters(classes, count, width=8, noise=0.1, seed=0):
    """Features about one centre per class, on very different scales, and labels."""
    centres = np.random.default_rng(7).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = centres[labels] + noise * rng.normal(size=(count, width))
    return features * 10.0 ** np.arange(-2, width - 2), labels


@pytest.mark.parametrize("method", METHODS)
class TestProbe:
    def test_separable_classes(self, method):
        train, test = clusters(7, 200), clusters(7, 100, seed=1)
        result = linear_probe(*train, *test, 7, method)
        assert result.pop("probe_regularization") in GRID
        assert result == {"probe_top1": 1.0, "probe_top5": 1.0}

    def test_labels_that_mean_nothing(self, method):
        """Chance is 1/4; four standard deviations of 400 draws are 0.087."""
        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(800, 5)), rng.integers(0, 4, 800)
        result = linear_probe(features[:400], labels[:400], features[400:], labels[400:], 4, method)
        assert abs(result["probe_top1"] - 0.25) < 0.087 and "probe_top5" not in result

    def test_more_features_than_images_need_regularisation(self, method):
        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(500, 60)), rng.integers(0, 2, 500)
        features[:, 0] += 1.5 * labels
        train, test = (features[:60], labels[:60]), (features[60:], labels[60:])
        result = linear_probe(*train, *test, 2, method)
        assert result["probe_regularization"] > GRID[-1] and result["probe_top1"] > 0.6

    def test_units_and_constant_features_change_nothing(self, method):
        train, test = clusters(3, 60, noise=1.0), clusters(3, 60, noise=1.0, seed=1)
        result = linear_probe(*train, *test, 3, method)
        assert result == linear_probe(*train, *test, 3, method)
        moved = [
            np.concatenate([part[0] * 64 + 3, np.full((60, 1), 0.1)], axis=1)
            for part in (train, test)
        ]
        assert linear_probe(moved[0], train[1], moved[1], test[1], 3, method) == result

    def test_a_class_without_training_images(self, method):
        (features, labels), test = clusters(6, 100), clusters(6, 100, seed=1)
        seen = labels != 2
        result = linear_probe(features[seen], labels[seen], *test, 6, method)
        assert result["probe_top1"] == pytest.approx((test[1] != 2).mean(), abs=0.02)


@pytest.fixture(scope="module")
def problem():
    features, labels = clusters(3, 90, noise=1.0)
    return (features - features.mean(0)) / features.std(0) + 0.5, labels


def slope(loss, weights, bias):
    with jax.enable_x64(True):
        return jax.grad(loss, argnums=(0, 1))(jnp.asarray(weights), jnp.asarray(bias))


@pytest.mark.parametrize("regularization", [1.0, 1e-3])
def test_logistic_is_at_its_optimum(problem, regularization):
    """The loss is convex: where its gradient, taken by JAX, is zero, is the optimum."""
    features, labels = problem

    def loss(weights, bias):
        logits = jnp.asarray(features) @ weights + bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
        return losses.mean() + regularization / 2 * (weights**2).sum()

    fitted = fit_logistic(features, labels, 3, regularization)
    assert max(np.abs(part).max() for part in slope(loss, *fitted)) < 1e-6
    zero = [np.zeros_like(part) for part in fitted]
    assert max(np.abs(part).max() for part in slope(loss, *zero)) > 1e-2


@pytest.mark.parametrize("regularization", [1.0, 1e-3])
def test_ridge_is_at_its_optimum(problem, regularization):
    features, labels = problem

    def loss(weights, bias):
        errors = jnp.asarray(features) @ weights + bias - jnp.asarray(np.eye(3)[labels])
        return (errors**2).sum(1).mean() + regularization * (weights**2).sum()

    fitted = fit_ridge(features, labels, 3, regularization)
    assert max(np.abs(part).max() for part in slope(loss, *fitted)) < 1e-12


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "svm"}, "method='svm'"),
        ({"train_labels": np.array([0, 3])}, "training labels int64 0 to 3 .* 0 to 2"),
        ({"test_labels": np.array([-1])}, "test labels int64 -1"),
        ({"test_labels": np.array([0.5])}, "test labels float64"),
        ({"train_labels": np.array([1, 1])}, "all 2 training images are of class 1"),
        (
            {"train_features": np.zeros((0, 2)), "train_labels": np.zeros(0, int)},
            "no training images",
        ),
        ({"test_features": np.zeros((0, 2)), "test_labels": np.zeros(0, int)}, "no test images"),
        ({"test_features": np.zeros((1, 3))}, "have 2 values and test features 3"),
        ({"train_features": np.zeros((3, 2))}, r"\(3, 2\) and labels \(2,\) do not fit"),
        ({"train_features": np.array([[1, 2], [3, np.nan]])}, "training features are not finite"),
    ],
)
def test_what_does_not_fit(change, message):
    good = {
        "train_features": np.eye(2),
        "train_labels": np.array([0, 1]),
        "test_features": np.eye(2)[:1],
        "test_labels": np.array([0]),
        "classes": 3,
    }
    assert linear_probe(**good)["probe_top1"] in (0, 1)
    with pytest.raises(ValueError, match=message):
        linear_probe(**good | change)
