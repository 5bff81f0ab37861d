"""Row groups of Parquet files, read within bounds whatever the files say of themselves."""

import contextlib
from collections.abc import Iterator, Sequence

from unitok_jax.data.formats.shard_names import check_file

MAX_BYTES = 4 << 30  # of a row group, and of what is read of it
MAX_ROWS = 1 << 20  # of a row group
MAX_TEXTS = 1000  # of one row
MAX_CHARACTERS = 1 << 24  # of the texts of one row


@contextlib.contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """Makes a ValueError that begins with `name` of what Arrow raises in the block.

    An OSError of the disk stays; what is wrong within a file comes as one, too, without a number.
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
    """The rows that the end of a file states of a row group.

    Columns are not asked: pyarrow ends the process where what is stated of one is damaged.

    Args:
        metadata: of the file.
        group: position of the row group.

    Raises:
        ValueError: more rows or bytes than are read.
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
    """The columns of a row group as an Arrow table.

    A dictionary or run lengths may make any number of values of a few bytes. So texts stay as they
    are stored, each once (`texts_of` reads them), and other columns come row by row until they
    are too large.

    Args:
        file: path.
        group: position of the row group.
        rows: how many it has.
        kinds: columns that are read, name -> type as Arrow writes it.
        texts: those of them that are strings or lists of strings.

    Raises:
        ValueError: damage, or more than `check_group` allows.
        OSError: the disk's, or one without a number: the row group is another than told.
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
            # Threads read several groups at a time already.
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
    """The texts of a cell of a column of strings or lists of strings, without nulls.

    Raises:
        UnicodeDecodeError: bytes that are not UTF-8.
        ValueError: more than `MAX_TEXTS`, or than `MAX_CHARACTERS` in all.
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
