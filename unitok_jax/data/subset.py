"""Some records of a source."""

from collections.abc import Sequence
from typing import Any

from unitok_jax.data.records import LabelledSource, Source


class Subset:
    """Records of another source, by their positions there."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self._indices[index]]


class LabelledSubset(Subset):
    """Records of a labelled source, with all its classes."""

    def __init__(self, source: LabelledSource, indices: Sequence[int]):
        super().__init__(source, indices)
        self.class_names, self.class_templates = source.class_names, source.class_templates

    def label(self, index: int) -> int:
        """The position in `class_names` of record `index`."""
        return self._source.label(self._indices[index])


def subset(source: Source, indices: Sequence[int]) -> Subset:
    """The records of `source` at `indices`, labelled if it is."""
    kind = LabelledSubset if isinstance(source, LabelledSource) else Subset
    return kind(source, indices)
