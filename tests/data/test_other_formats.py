"""A path that holds another format: each source says which one reads it."""

import pytest

from helpers.formats import config
from unitok_jax.data.sources import open_source

HELD = {
    "tar": "a.tar",
    "parquet": "deep/a.parquet",
    "folder": "a.jpg",
    "array_record": "a.array_record",
    "tfds": "a-train.array_record-00000-of-00001",
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("source", ["tar", "parquet", "array_record", "tfds"])
def test_folder_of_another_format(tmp_path, source, held):
    if source == held:
        return
    file = tmp_path / HELD[held]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    with pytest.raises((ValueError, OSError), match=f"data.path.*set data.source={held}$") as error:
        open_source(config(source, tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["tar", "parquet"])
def test_file_of_another_format(tmp_path, source):
    file = tmp_path / {"tar": "a.parquet", "parquet": "a.tar"}[source]
    file.write_bytes(b"x" * 2000)
    other = {"tar": "parquet", "parquet": "tar"}[source]
    with pytest.raises(ValueError, match=f"a.{other} is not a .*set data.source={other}"):
        open_source(config(source, file))
