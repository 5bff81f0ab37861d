"""Health of the input: what was read, what was skipped, and the limit on bad samples."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from unitok_jax.data.records import Source, first_names

# Reasons to skip a sample: the last part of their names in metrics, reports and manifests.
REASONS = (
    "empty",  # an image of 0 bytes
    "not_an_image",
    "damaged",  # an image with a valid beginning
    "too_large",  # a decompression bomb or an endless file
    "unreadable",  # no file, a disk error, or an error in the file around the sample
    "no_image",
    "two_images",  # with one key
    "duplicate_key",  # within one shard
    "no_caption",
    "bad_caption",  # not UTF-8, or not where and what it should be
    "bad_record",  # JSON or a row of a table of another form
    "no_text",  # a text, a question or an instruction of 0 characters
    "no_answer",  # a conversation in which nothing is answered
    "image_places",  # a conversation with more or fewer images than places for them
    "no_codes",  # an image that was not tokenized
    "drawn_image",  # an image in an answer to a model that draws none
)
NAMES_KEPT = 20  # names kept per reason, for messages
# Minimum samples for a meaningful share of bad ones: two bad ones of ten may be chance.
ENOUGH = 1000


class SampleError(ValueError):
    """A sample that cannot be used.

    Args:
        message: names the sample and says what is wrong.
        reason: one of `REASONS`.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # worker processes pickle it
        return type(self), (str(self), self.reason)


class TooLong(SampleError):
    """A sample that is whole, and does not fit: it is left out without being a bad one.

    Args:
        message: names the sample, its length and the limit.
    """

    def __init__(self, message: str):
        super().__init__(message, "too_long")

    def __reduce__(self):
        return type(self), (str(self),)


class Tally:
    """Skipped samples: the count and the first names for each reason."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Adds `count` samples; `name` is one of them, or their common part.

        File names need not be UTF-8; other bytes become escapes, so that any name can be shown.
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
        """Returns {reason: {'count': int, 'first': names}}, the most frequent reason first."""
        return {
            reason: {"count": count, "first": self.names[reason]}
            for reason, count in self.counts.most_common()
        }

    @classmethod
    def from_json(cls, counted: dict[str, dict[str, Any]]) -> "Tally":
        """Rebuilds a tally from the result of `to_json`, read from a file that may be damaged.

        Raises:
            ValueError: the content is not a tally.
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


class TooManyBadSamples(ValueError):
    """The share of unusable samples exceeds `data.max_bad`; the message lists them by reason."""


def left_out(
    before: Tally,
    shards: Iterable[Mapping[str, Any]],
    samples: int,
    max_bad: float,
    *,
    key: str,
    remedy: str,
) -> Tally:
    """Adds up the samples that a written folder leaves out.

    Args:
        before: samples skipped when the source was opened.
        shards: facts of every shard; `skipped` is the result of `Tally.to_json`.
        samples: number of the others, those of the source.
        max_bad: largest share of all that may be skipped.
        key: name of `max_bad`, for the message.
        remedy: what to do, for the message.

    Raises:
        TooManyBadSamples: a larger share is skipped; lists them.
    """
    found = Tally()
    found.update([before, *(Tally.from_json(shard["skipped"]) for shard in shards)])
    total = samples + before.total
    if found.total > max_bad * total:
        raise TooManyBadSamples(
            f"{found.total} of {total} samples cannot be used, more than {key}={max_bad:g} "
            f"allows:\n{found}\n{remedy}"
        )
    return found


@dataclasses.dataclass
class Notes:
    """Results of reading some examples, sent from a worker to the consumer."""

    samples: int = 0  # samples of the batch, replacements included
    bytes: int = 0  # bytes of their encoded images
    skipped: Tally = dataclasses.field(default_factory=Tally)
    # Further counts by name, such as 'left_out/too_long': no sign of damage.
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def update(self, other: "Notes") -> None:
        """Adds the results of other examples."""
        self.samples += other.samples
        self.bytes += other.bytes
        self.skipped.update([other.skipped])
        self.counts.update(other.counts)


class Health:
    """Adds up what was read, and ends a run whose share of bad samples exceeds the limit.

    Args:
        max_bad: allowed share of unusable samples, 0..1.
    """

    def __init__(self, max_bad: float):
        if not 0 <= max_bad <= 1:
            raise ValueError(f"data.max_bad={max_bad} is a share of the samples: give 0..1")
        self._max_bad = max_bad
        self._total = Notes()
        self._reported: collections.Counter[str] = collections.Counter()

    def check_source(self, source: Source) -> None:
        """Checks the samples that a source skipped when it was opened.

        Raises:
            TooManyBadSamples: a larger share than allowed.
        """
        left_out = getattr(source, "tally", Tally())
        self.check(left_out, len(source) + left_out.total)

    def check(self, bad: Tally, samples: int, enough: int = 0) -> None:
        """Checks the bad ones of some samples: of all there are, or of `enough` for a judgement.

        Raises:
            TooManyBadSamples: a larger share than allowed.
        """
        if bad.total > self._max_bad * max(samples, enough):
            raise TooManyBadSamples(
                f"{bad.total} of {samples} samples are unusable, more than data.max_bad="
                f"{self._max_bad} allows; mend or remove them, or raise it:\n{bad}"
            )

    def update(self, notes: Notes) -> None:
        """Adds the results of one batch.

        Raises:
            TooManyBadSamples: more than the allowed share of all samples read, or of `ENOUGH`
                samples while fewer were read.
        """
        self._total.update(notes)
        self.check(self._total.skipped, self._total.samples, ENOUGH)

    def new_counts(self) -> dict[str, int]:
        """Returns the counts since the last call: `samples` and `bytes` read,
        `skipped/<reason>` for every reason that occurred, and the further `Notes.counts`."""
        now = collections.Counter(samples=self._total.samples, bytes=self._total.bytes)
        now.update(self._total.counts)
        now.update({f"skipped/{reason}": n for reason, n in self._total.skipped.counts.items()})
        new, self._reported = now - self._reported, now
        return {"samples": 0, "bytes": 0} | new
