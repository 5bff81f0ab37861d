"""Samples, and the promises of a source of samples, which every format keeps; parts of a source."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from unitok_jax.paths import printable

# Why a sample is left out: the last part of its name in metrics, reports and manifests.
REASONS = (
    "empty",  # an image of 0 bytes
    "not_an_image",
    "damaged",  # an image that begins well
    "too_large",  # a decompression bomb, or an endless file
    "unreadable",  # no file, the disk, or the file around the sample
    "no_image",
    "two_images",  # under one key
    "duplicate_key",  # within one shard
    "no_caption",
    "bad_caption",  # not UTF-8, or not where and what it should be
)
NAMES_KEPT = 20  # of each reason, for messages


class SampleError(ValueError):
    """A sample that cannot be used.

    Args:
        message: names the sample and says what is wrong.
        reason: one of `REASONS`.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # worker processes send it
        return type(self), (str(self), self.reason)


class Tally:
    """Samples that were left out: how many for each reason, and the first names of each."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Counts `count` samples; `name` is one of them, or what they have in common.

        Names of files need not be UTF-8; what is not is kept as an escape, so that all can be told.
        """
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not one of {', '.join(REASONS)}")
        self.counts[reason] += count
        name = name.encode(errors="backslashreplace").decode()
        names = self.names.setdefault(reason, [])
        if len(names) < NAMES_KEPT and name not in names:
            names.append(name)

    def update(self, others: Iterable["Tally"]) -> None:
        """Adds other tallies."""
        for other in others:
            self.counts.update(other.counts)
            for reason, names in other.names.items():
                kept = self.names.setdefault(reason, [])
                kept.extend(name for name in names if name not in kept)
                del kept[NAMES_KEPT:]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """{reason: {'count': int, 'first': names}}, what is most frequent first."""
        return {
            reason: {"count": count, "first": self.names[reason]}
            for reason, count in self.counts.most_common()
        }

    @classmethod
    def from_json(cls, counted: dict[str, dict[str, Any]]) -> "Tally":
        """The tally of what `to_json` returned, from a file that may be damaged.

        Raises:
            ValueError: it is none.
        """
        tally = cls()
        try:
            for reason, found in counted.items():
                count, names = found["count"], found["first"]
                numbers = type(count) is int and 0 < count < 2**63
                if reason not in REASONS or not numbers or type(names) is not list:
                    raise ValueError(f"{reason!r:.40}: {count!r:.40}")
                if not all(type(name) is str for name in names):
                    raise ValueError(f"{reason!r:.40}: a name is no text")
                tally.counts[reason], tally.names[reason] = count, names[:NAMES_KEPT]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no table of samples that were left out: {error}") from error
        return tally

    def __str__(self) -> str:
        return "\n".join(
            f"  {count} {reason}: {first_names(self.names[reason])}"
            for reason, count in self.counts.most_common()
        )


def first_names(names: Sequence[str], count: int = 5) -> str:
    """Names for a message, as any console prints them: 'a, b, c, d, e, ...'."""
    return ", ".join(map(printable, names[:count])) + (", ..." if len(names) > count else "")


class Source(Protocol):
    """Records by position, in an order that never changes; picklable, so that workers can read.

    Threads read at the same time. A record that cannot be used raises a `SampleError`; a file that
    cannot be read an `OSError`, after what retries make sense.

    A source may also have

    * `tally`, a `Tally` of the samples that it left out when it was opened;
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
