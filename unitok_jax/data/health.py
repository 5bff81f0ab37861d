"""The health of the input: what was read, what had to be left out, and when that is too much."""

import collections
import dataclasses

from unitok_jax.data.records import Source, Tally

# Samples before a share of bad ones says anything: two bad ones of ten may be bad luck.
ENOUGH = 1000


class TooManyBadSamples(ValueError):
    """More samples than `data.max_bad` allows are unusable; the message lists them by reason."""


@dataclasses.dataclass
class Notes:
    """What reading some examples brought, on its way from a worker to the consumer."""

    samples: int = 0  # of the batch, replacements among them
    bytes: int = 0  # of their encoded images
    skipped: Tally = dataclasses.field(default_factory=Tally)

    def update(self, other: "Notes") -> None:
        """Adds what other examples brought."""
        self.samples += other.samples
        self.bytes += other.bytes
        self.skipped.update([other.skipped])


class Health:
    """Adds up what was read, and ends a run whose data is worse than allowed.

    Args:
        max_bad: share of samples that may be unusable, 0..1.
    """

    def __init__(self, max_bad: float):
        if not 0 <= max_bad <= 1:
            raise ValueError(f"data.max_bad={max_bad} is a share of the samples: give 0..1")
        self._max_bad = max_bad
        self._total = Notes()
        self._taken: collections.Counter[str] = collections.Counter()

    def check_source(self, source: Source) -> None:
        """Looks at what a source left out when it was opened.

        Raises:
            TooManyBadSamples: a larger share than allowed.
        """
        left_out = getattr(source, "tally", Tally())
        self.check(left_out, len(source) + left_out.total)

    def check(self, bad: Tally, samples: int, enough: int = 0) -> None:
        """Looks at what is bad of some samples, all there are or `enough` to say something.

        Raises:
            TooManyBadSamples: a larger share than allowed.
        """
        if bad.total > self._max_bad * max(samples, enough):
            raise TooManyBadSamples(
                f"{bad.total} of {samples} samples are unusable, more than data.max_bad="
                f"{self._max_bad} allows; mend or remove them, or raise it:\n{bad}"
            )

    def update(self, notes: Notes) -> None:
        """Adds what one batch brought.

        Raises:
            TooManyBadSamples: more than the allowed share of all that came, or of `ENOUGH` samples
                while fewer have come.
        """
        self._total.update(notes)
        self.check(self._total.skipped, self._total.samples, ENOUGH)

    def take(self) -> dict[str, int]:
        """Since it was last asked: `samples` and `bytes` that were read, and `skipped/<reason>` for
        every reason that occurred."""
        now = collections.Counter(samples=self._total.samples, bytes=self._total.bytes)
        now.update({f"skipped/{reason}": n for reason, n in self._total.skipped.counts.items()})
        new, self._taken = now - self._taken, now
        return {"samples": 0, "bytes": 0} | new
