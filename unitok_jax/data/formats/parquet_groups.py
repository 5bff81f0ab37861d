"""Row groups of Parquet files, read within limits regardless of the sizes a file states."""

import contextlib
from collections.abc import Iterator, Sequence

from unitok_jax.data.formats.shard_names import check_file

MAX_BYTES = 4 << 30  # size limit of a row group, stated or read
MAX_ROWS = 1 << 20  # row limit of a row group
MAX_TEXTS = 1000  # texts limit of one row
MAX_CHARACTERS = 1 << 24  # character limit of the texts of one row


@contextlib.contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """Turns Arrow's errors in the block into ValueErrors that begin with `name`.

    A disk's OSError passes through; Arrow also reports file damage as an OSError, without errno.
    """
    import pyarrow

    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{name}: {_line(error)}") from error
    except (pyarrow.ArrowException, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def check_group(metadata, group: int) -> int:
    """Returns the number of rows that a file's footer states for a row group.

    Column metadata is not read: pyarrow aborts the process if it is damaged.

    Args:
        metadata: the footer of the file.
        group: position of the row group.

    Raises:
        ValueError: more rows or bytes than the limits.
    """
    end = metadata.row_group(group)
    if not (0 <= end.num_rows <= MAX_ROWS and end.total_byte_size <= MAX_BYTES):
        raise ValueError(
            f"row group {group} states {end.num_rows} rows of {end.total_byte_size} bytes; at most "
            f"{MAX_ROWS} rows and {MAX_BYTES} bytes are read: write smaller row groups"
        )
    return end.num_rows


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def read_group(file: str, group: int, rows: int, kinds: dict[str, str], texts: Sequence[str]):
    """Reads columns of a row group as an Arrow table.

    Dictionaries and run lengths may expand a few bytes to any number of values. So texts stay
    dictionary-encoded (`texts_of` reads them), and other columns are read row by row until they
    exceed the limit.

    Args:
        file: path.
        group: position of the row group.
        rows: its number of rows.
        kinds: columns to read, name -> type as Arrow spells it.
        texts: the columns of `kinds` that are strings or lists of strings.

    Raises:
        ValueError: damage, or more than `check_group` allows.
        OSError: a disk error, or one without errno: the row group differs from the arguments.
    """
    import pyarrow
    from pyarrow import parquet

    name = f"{file}, group {group}"
    with arrow_errors(name):
        check_file(file)
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
        there = 0 <= group < metadata.num_row_groups and set(kinds) <= set(schema.names)
        found = {column: str(schema.field(column).type) for column in kinds if there}
    if not there or found != kinds or metadata.row_group(group).num_rows != rows:
        raise OSError(f"{file} has changed since it was opened")
    with arrow_errors(name):
        check_group(metadata, group)
        paths = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
        dictionaries = [path for path in paths if _is_of(path, texts)]
        options = {"metadata": metadata, "page_checksum_verification": True}
        with parquet.ParquetFile(file, read_dictionary=dictionaries, **options) as opened:
            size, found = 0, []
            plain = [column for column in kinds if column not in texts]
            # Several threads already read row groups in parallel.
            for row in opened.iter_batches(1, [group], plain, use_threads=False):
                size += row.nbytes
                if size > MAX_BYTES:
                    raise ValueError(f"its columns unpack to more than {MAX_BYTES} bytes")
                found.append(row)
            table = pyarrow.Table.from_batches(found)
            if texts:
                columns = opened.read_row_group(group, list(texts), use_threads=False)
                for column in texts:
                    table = table.append_column(column, columns[column])
    if table.num_rows != rows:
        raise ValueError(f"{name} holds {table.num_rows} rows, not {rows}")
    return table


def texts_of(cell) -> list[str]:
    """Returns the texts of a cell of a string or list-of-strings column, without nulls.

    Raises:
        UnicodeDecodeError: bytes that are not UTF-8.
        ValueError: more than `MAX_TEXTS` texts, or more than `MAX_CHARACTERS` in total.
    """
    values = getattr(cell, "values", None)
    if values is None:  # one text, or null
        found = cell.as_py()
        known, places = {0: found}, [] if found is None else [0]
    elif len(values) > MAX_TEXTS:
        raise ValueError(f"{len(values)} texts, more than {MAX_TEXTS}")
    else:
        places = [place for place in values.indices.to_pylist() if place is not None]
        known = {place: values.dictionary[place].as_py() for place in set(places)}
    length = sum(len(known[place]) for place in places)
    if length > MAX_CHARACTERS:
        raise ValueError(f"texts of {length} characters, more than {MAX_CHARACTERS}")
    return [known[place] for place in places]
