"""Samples, the protocol of a source of samples, which every format implements, and subsets."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from unitok_jax.system.paths import printable


def first_names(names: Sequence[str], count: int = 5) -> str:
    """Formats names for a message that any console can print: 'a, b, c, d, e, ...'."""
    return ", ".join(map(printable, names[:count])) + (", ..." if len(names) > count else "")


class Source(Protocol):
    """Records by position, in an order that never changes; picklable for worker processes.

    Threads read concurrently. A record that cannot be used raises a `health.SampleError`; a
    file that cannot be read raises an `OSError`, after any useful retries.

    A source may also have

    * `tally`, a `health.Tally` of the samples skipped when the source was opened;
    * `blocks`, int64 (n,), ascending: the ends of its n blocks, the last being its length. Reading
      one record of a block reads the whole block, so a random order should stay local;
    * `shapes()`, which returns int32 (n, 2): the height and width of every image, upright, zeros
      where unknown, without reading one (`buckets`).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns {'name': str, 'image': encoded bytes, 'captions': tuple[str, ...]}."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose images each belong to one named class, for zero-shot classification."""

    class_names: tuple[str, ...]
    class_templates: tuple[str, ...]  # sentences with {} where the name goes

    def label(self, index: int) -> int:
        """Returns record `index`'s position in `class_names`. May read, but decodes no image."""
        ...


class Subset:
    """Records of another source, selected by position."""

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
        """Returns the position of record `index`'s class in `class_names`."""
        return self._source.label(self._indices[index])


def subset(source: Source, indices: Sequence[int]) -> Subset:
    """Selects the records of `source` at `indices`; labelled if the source is."""
    kind = LabelledSubset if isinstance(source, LabelledSource) else Subset
    return kind(source, indices)
