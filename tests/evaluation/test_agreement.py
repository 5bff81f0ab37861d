"""How many codes of two encodings differ."""

import numpy as np
import pytest

from unitok_jax.evaluation.metrics.agreement import CodeAgreement

pytestmark = pytest.mark.usefixtures("strict_shapes")


def test_counts_over_batches_with_padding():
    first = np.zeros((2, 2, 3), int)  # two images, two codebooks, three tokens
    other = first.copy()
    other[0, 0, 0] = other[0, 1, 0] = 1  # both codes of a token
    other[0, 0, 2] = 5
    other[1] = 9  # padding
    measure = CodeAgreement()
    measure.update(first, other, np.array([True, False]))
    measure.update(first[:1], first[:1])
    result = measure.result()
    assert result["codes_changed"] == pytest.approx(3 / 12)
    assert result["tokens_changed"] == pytest.approx(2 / 6)
    np.testing.assert_allclose(result["codes_changed_per_book"], [2 / 6, 1 / 6])


def test_what_does_not_fit():
    measure = CodeAgreement()
    with pytest.raises(ValueError, match="no codes"):
        measure.result()
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 2, 4\)"):
        measure.update(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)))
