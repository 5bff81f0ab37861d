"""Codes by the names of their images."""

import pytest

from helpers import coded
from unitok_jax.data.codes import names
from unitok_jax.data.codes.names import CodesByName
from unitok_jax.data.codes.records import open_codes


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return open_codes(coded.write(tmp_path_factory.mktemp("codes") / "codes", 25))


def test_every_name(records):
    by_name = CodesByName(records)
    for number, record in enumerate(records):
        found = by_name[f"{number:04}.png"]
        assert found["key"] == record["key"] and (found["codes"] == record["codes"]).all()
    with pytest.raises(KeyError):
        by_name["25.png"]


def test_digests_that_collide(records, monkeypatch):
    monkeypatch.setattr(names, "digest", lambda key: 7)
    monkeypatch.setattr(names, "digests", lambda path, count: [7] * count)
    assert CodesByName(records)["0019.png"]["key"] == "0019.png"


def test_digests_that_are_not_those_of_the_shard(tmp_path):
    folder = coded.write(tmp_path / "codes", 4)
    file = sorted(folder.glob("*.keys"))[0]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="copy it again"):
        CodesByName(open_codes(folder))


def test_half_a_character_names_nothing(records):
    """As JSON may hold, and no file's name."""
    with pytest.raises(KeyError):
        CodesByName(records)["\ud83d.png"]
