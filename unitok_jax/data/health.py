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
        left_out = getattr(source, "tally", None)
        if left_out is not None and left_out.total:
            samples = len(source) + left_out.total
            self._check(left_out, samples, samples)

    def update(self, notes: Notes) -> None:
        """Adds what one batch brought.

        Raises:
            TooManyBadSamples: a larger share than allowed, of at least `ENOUGH` samples.
        """
        self._total.update(notes)
        samples = self._total.samples
        self._check(self._total.skipped, samples, max(samples, ENOUGH))

    def take(self) -> dict[str, int]:
        """Since it was last asked: `samples` and `bytes` that were read, and `skipped/<reason>` for
        every reason that occurred."""
        now = collections.Counter(samples=self._total.samples, bytes=self._total.bytes)
        now.update({f"skipped/{reason}": n for reason, n in self._total.skipped.counts.items()})
        new, self._taken = now - self._taken, now
        return {"samples": 0, "bytes": 0} | new

    def _check(self, bad, samples, enough) -> None:
        if bad.total > self._max_bad * enough:
            raise TooManyBadSamples(
                f"{bad.total} of {samples} samples are unusable, more than data.max_bad="
                f"{self._max_bad} allows; mend or remove them, or raise it:\n{bad}"
            )
