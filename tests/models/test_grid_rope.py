"""Rotary positions of a grid of tokens, of any number of rows and columns."""

import numpy as np
import pytest

from unitok_jax.models.transformer import grid_rope


@pytest.mark.parametrize("rows, columns", [(2, 3), (3, 2), (1, 5), (4, 4)])
def test_each_token_has_the_angles_of_its_row_and_column(rows, columns):
    """Half of the pairs turn by the row, half by the column, at frequencies 10000^(-i / q)."""
    table = grid_rope(rows, columns, head_width=16)
    assert table.shape == (rows * columns, 8, 2) and table.dtype == np.float32
    frequencies = [10_000 ** (-i / 4) for i in range(4)]
    for row in range(rows):
        for column in range(columns):
            angles = [row * f for f in frequencies] + [column * f for f in frequencies]
            expected = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            np.testing.assert_allclose(table[row * columns + column], expected, atol=1e-6)


def test_heads_that_no_grid_fits():
    with pytest.raises(ValueError, match="heads of a multiple of 4, not 6"):
        grid_rope(2, 3, 6)
