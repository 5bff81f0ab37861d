"""Records of codes by the names of their images."""

import numpy as np

from unitok_jax.data.codes.files import digest, digests
from unitok_jax.data.codes.records import CodeRecords


class CodesByName:
    """Positions of records by key, from the digests of all keys, held in memory: 16 bytes each.

    Args:
        records: a whole folder of codes, as `open_codes` returns it.

    Raises:
        ValueError, FileNotFoundError: a file of digests is damaged or missing.
    """

    def __init__(self, records: CodeRecords):
        self.records = records
        found = [
            digests(path, shard["count"])
            for path, shard in zip(records.paths, records.manifest["shards"], strict=True)
        ]
        keys = np.concatenate([np.zeros(0, np.uint64), *found])
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __getitem__(self, key: str) -> dict:
        """Returns the record of a key.

        Raises:
            KeyError: no record has this key.
            ValueError: the shard differs from its manifest entry.
        """
        try:
            wanted = np.uint64(digest(key))
        except UnicodeEncodeError as error:  # half a character, which no file's name holds
            raise KeyError(key) from error
        start, end = (np.searchsorted(self._keys, wanted, side) for side in ("left", "right"))
        for place in self._order[start:end]:  # digests may collide
            record = self.records[int(place)]
            if record["key"] == key:
                return record
        raise KeyError(key)
