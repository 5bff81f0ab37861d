"""Array of codes with the grid of its image, the stride of a token, and whose codes they are."""

import functools

import numpy as np

STRIDE = 16  # side of a token, in pixels


class Codes(np.ndarray):
    """Codes (B, K, N), or (K, N) of one image, with their grid: `decode` needs nothing else.

    `grid` is (rows, columns) of image tokens. Operations on whole images keep the grid: indexing
    images of a batch, stacking single images, concatenating batches, copies, other dtypes and
    pickles. Any other operation returns a plain array, which `decode` takes with `grid=`.
    """

    grid: tuple[int, int] | None

    def __new__(cls, codes, grid: tuple[int, int]):
        """Copies an int array, as arrays from a device are read-only, and sets the grid."""
        return _with_grid(np.array(codes, np.int32), tuple(grid))

    def __array_finalize__(self, source):
        self.grid = None  # for arrays that NumPy derives from codes; callers below set the grid

    def __getitem__(self, index):
        part = np.asarray(self)[index]
        indices = index if isinstance(index, tuple) else (index,)
        fits = np.ndim(part) in (2, 3) and part.shape[-2:] == self.shape[-2:]
        if fits and self.ndim == 3:
            fits = np.ndim(indices[0]) < 2 if indices else True
            indices = indices[1:]  # the first selects images
        return _with_grid(part, self.grid) if fits and all(map(_takes_all, indices)) else part

    def __iter__(self):
        return (self[row] for row in range(len(self)))

    def copy(self, order="C"):
        """Returns a copy with the same grid; see `numpy.ndarray.copy`."""
        return _with_grid(np.asarray(self).copy(order), self.grid)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def astype(self, *args, **options):
        """Casts the codes and keeps the grid; see `numpy.ndarray.astype`."""
        return _with_grid(np.asarray(self).astype(*args, **options), self.grid)

    def __reduce__(self):
        # ndarray's own pickling would lose the grid between processes.
        return _with_grid, (np.asarray(self), self.grid)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return getattr(ufunc, method)(*_plain(inputs), **_plain(options))

    def __array_function__(self, function, types, args, options):
        out = function(*_plain(args), **_plain(options))
        joins = function in (np.concatenate, np.stack) and args and options.keys() <= {"axis"}
        if function is np.copy or (joins and out.ndim == 3 and self._joined(*args, **options)):
            return _with_grid(out, self.grid)
        return out

    def _joined(self, parts, axis=0):
        """Returns True if all joined parts are images of this grid, joined along the batch axis."""
        return axis == 0 and all(
            getattr(part, "grid", None) == self.grid and part.shape[-2:] == self.shape[-2:]
            for part in parts
        )


def first_image_token(codes: np.ndarray, grid: tuple[int, int]) -> int:
    """Returns the position in N of the first token of the grid, after the query tokens.

    Raises:
      ValueError: codes (..., N) of fewer tokens than a grid of (rows, columns) holds.
    """
    first = codes.shape[-1] - grid[0] * grid[1]
    if first < 0:
        raise ValueError(f"{codes.shape[-1]} tokens are fewer than a grid of {grid} holds")
    return first


def check_tokenizer(tokenizer, made_by: str | None, shape: tuple[int, int], knows: str) -> None:
    """Refuses a tokenizer whose codes are not those of a model.

    Args:
      tokenizer: a `Tokenizer`.
      made_by: hash of the tokenizer that the model was trained with; None: unknown.
      shape: number of codebooks and entries of each, (K, V), of the model.
      knows: subject and verb, such as 'the generator draws'.

    Raises:
      ValueError: the message gives both values.
    """
    if made_by not in (None, tokenizer.hash):
        raise ValueError(
            f"{knows} codes of the tokenizer with hash {made_by}, and this one has hash "
            f"{tokenizer.hash}: give the tokenizer that made the codes it was trained on"
        )
    if shape != tokenizer.codebook_shape:
        raise ValueError(
            f"{knows} codes of (codebooks, entries) = {shape}, and this tokenizer has "
            f"{tokenizer.codebook_shape}"
        )
    if queries := tokenizer.config.model.num_query:
        raise ValueError(
            f"{knows} tokens of the grid alone, and the tokenizer has {queries} query tokens"
        )


def _with_grid(array, grid):
    """Returns a view of an array as codes with a grid; without a grid the array itself."""
    if grid is None:
        return array
    codes = array.view(Codes)
    codes.grid = grid
    return codes


def _takes_all(index):
    """Returns True if an index selects all tokens of an image."""
    return index is Ellipsis or index is None or (isinstance(index, slice) and index == slice(None))


def _plain(value):
    if isinstance(value, Codes):
        return np.asarray(value)
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _without_grid(method):
    @functools.wraps(method)
    def call(self, *args, **options):
        return method(np.asarray(self), *args, **options)

    return call


# Methods whose results no longer have the tokens of whole images in their places.
for _name in (
    *("reshape", "transpose", "swapaxes", "ravel", "flatten", "squeeze", "view", "repeat", "take"),
    *("compress", "diagonal", "cumsum", "cumprod", "argsort", "choose", "byteswap", "round"),
):
    setattr(Codes, _name, _without_grid(getattr(np.ndarray, _name)))
Codes.T = property(lambda self: np.asarray(self).T)
Codes.mT = property(lambda self: np.asarray(self).mT)
