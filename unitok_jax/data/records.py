"""Samples, and the promises of a source of samples, which every format keeps; parts of a source."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from unitok_jax.system.paths import printable


def first_names(names: Sequence[str], count: int = 5) -> str:
    """Names for a message, as any console prints them: 'a, b, c, d, e, ...'."""
    return ", ".join(map(printable, names[:count])) + (", ..." if len(names) > count else "")


class Source(Protocol):
    """Records by position, in an order that never changes; picklable, so that workers can read.

    Threads read at the same time. A record that cannot be used raises a `health.SampleError`; a
    file that cannot be read an `OSError`, after what retries make sense.

    A source may also have

    * `tally`, a `health.Tally` of the samples that it left out when it was opened;
    * `blocks`, int64 (n,), ascending: where its n blocks end, the last being its length. Whoever
      reads one record of a block reads all of it, so a random order stays near.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{'name': str, 'image': encoded bytes, 'captions': tuple[str, ...]}."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose pictures each belong to one named class: zero-shot classification reads it."""

    class_names: tuple[str, ...]
    class_templates: tuple[str, ...]  # sentences with {} where the name goes

    def label(self, index: int) -> int:
        """The position in `class_names` of record `index`. May read it, decodes no image."""
        ...


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
