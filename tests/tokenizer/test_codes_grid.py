"""Which arrays made of codes know the grid of their image, and which are plain."""

import copy
import io
import pickle

import numpy as np
import pytest

from unitok_jax.codes import Codes

B, K, N = 3, 2, 6


@pytest.fixture
def codes():
    return Codes(np.arange(B * K * N).reshape(B, K, N), (2, 3))


KEPT = {
    "slice": lambda c: c[1:],
    "slice with all of the rest": lambda c: c[1:, :, :],
    "strided slice": lambda c: c[::-2],
    "image": lambda c: c[1],
    "last image": lambda c: c[-1],
    "image and new axis": lambda c: c[1, None],
    "single with a new axis": lambda c: c[1][None],
    "ellipsis": lambda c: c[1:, ...],
    "empty index": lambda c: c[()],
    "mask of images": lambda c: c[np.array([True, False, True])],
    "list of images": lambda c: c[[2, 0]],
    "no images": lambda c: c[:0],
    "iteration": lambda c: next(iter(c)),
    "stack of singles": lambda c: np.stack([c[2], c[0]]),
    "stack of all": lambda c: np.stack(list(c)),
    "stack of itself": lambda c: np.stack(c),
    "stack with its axis": lambda c: np.stack([c[0]], axis=0),
    "concatenate": lambda c: np.concatenate([c, c[1:]]),
    "concatenate with its axis": lambda c: np.concatenate((c[:1], c), 0),
    "copy": lambda c: c.copy(),
    "np.copy": np.copy,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "astype": lambda c: c.astype(np.uint16),
    "pickle": lambda c: pickle.loads(pickle.dumps(c)),
    "pickle of another dtype": lambda c: pickle.loads(pickle.dumps(c.astype(np.uint16))),
    "asanyarray": np.asanyarray,
}
PLAIN = {
    "tokens": lambda c: c[:, :, 1:],
    "turned tokens": lambda c: c[..., ::-1],
    "books": lambda c: c[:, :1],
    "books of a single": lambda c: c[0][:1],
    "as many books of a single": lambda c: c[0][[1, 0]],
    "new axis": lambda c: c[None],
    "mask of codes": lambda c: c[c > 3],
    "mask of books": lambda c: c[np.array([[True, True], [False, False], [False, False]])],
    "one code": lambda c: c[0, 0, 0],
    "reshape": lambda c: c.reshape(B, K, 2, 3),
    "np.reshape": lambda c: np.reshape(c, (1, B, K, N)),
    "transpose": lambda c: c.transpose(0, 2, 1),
    "T": lambda c: c.T,
    "swapaxes": lambda c: c.swapaxes(0, 1),
    "moveaxis": lambda c: np.moveaxis(c, 0, 1),
    "ravel": lambda c: c.ravel(),
    "flatten": lambda c: c.flatten(),
    "squeeze": lambda c: c[:1].squeeze(),
    "repeat": lambda c: c.repeat(2, axis=2),
    "arithmetic": lambda c: c + 1,
    "arithmetic from the left": lambda c: 1 + c,
    "comparison": lambda c: c == c,
    "negative": lambda c: -c,
    "sum": lambda c: c.sum(axis=0),
    "clip": lambda c: c.clip(0, 5),
    "where": lambda c: np.where(c > 3, c, 0),
    "asarray": np.asarray,
    "array": np.array,
    "concatenate tokens": lambda c: np.concatenate([c, c], axis=2),
    "concatenate books": lambda c: np.concatenate([c, c], 1),
    "concatenate with another grid": lambda c: np.concatenate([c, Codes(c, (3, 2))]),
    "concatenate with a plain one": lambda c: np.concatenate([c, np.asarray(c)]),
    "stack of batches": lambda c: np.stack([c, c]),
    "stack of books": lambda c: np.stack([c[0], c[1]], axis=1),
    "stack with another grid": lambda c: np.stack([c[0], Codes(c, (3, 2))[0]]),
    "saved": lambda c: _saved(c),
    "view": lambda c: c.view(np.uint32),
}


def _saved(codes):
    file = io.BytesIO()
    np.save(file, codes)
    file.seek(0)
    return np.load(file)


def values(operation, codes):
    return operation(np.asarray(codes).copy())


@pytest.mark.parametrize("name", KEPT)
def test_kept(codes, name):
    found = KEPT[name](codes)
    assert type(found) is Codes and found.grid == (2, 3)
    np.testing.assert_array_equal(np.asarray(found), values(KEPT[name], codes))
    assert found.dtype == values(KEPT[name], codes).astype(found.dtype).dtype


@pytest.mark.parametrize("name", PLAIN)
def test_plain(codes, name):
    found = PLAIN[name](codes)
    assert not isinstance(found, Codes) and not hasattr(found, "grid")
    np.testing.assert_array_equal(found, values(PLAIN[name], codes))


def test_square_codes_are_told_apart():
    """Where K = N = B no shape tells what became of the axes."""
    square = Codes(np.arange(64).reshape(4, 4, 4), (2, 2))
    for made in (
        *(square.transpose(0, 2, 1), square.T, np.stack(list(square), axis=1), square[:, [1, 0]]),
        *(np.stack(list(square), axis=2), square[np.eye(4, dtype=bool)], square[..., ::-1]),
    ):
        assert type(made) is np.ndarray


def test_parts_are_views(codes):
    """Writing to some images writes to the batch."""
    codes[1:][0, 0, 0] = 77
    codes[0][1, 2] = 78
    for image in codes:
        image[0, 5] = 79
    assert codes[1, 0, 0] == 77 and codes[0, 1, 2] == 78 and (codes[:, 0, 5] == 79).all()


def test_in_place_arithmetic_writes_and_is_plain(codes):
    batch = codes
    batch += 1
    assert type(batch) is np.ndarray and codes[0, 0, 0] == 1 and codes.grid == (2, 3)
