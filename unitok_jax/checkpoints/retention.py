"""Retention of checkpoints: the newest, the best, and one every fixed number of steps."""

from ml_collections import ConfigDict


class Preservation:
    """A preservation policy of Orbax.

    Orbax's `max_to_keep` with `best_fn` would delete the newest checkpoint, and `BestN` alone
    forgets the best checkpoint at a restart.
    """

    def __init__(self, settings: ConfigDict | None):
        self._settings = settings
        self.best_metric = settings.best_metric if settings is not None else ""
        self.metrics = {}  # step -> {best_metric: value} of those that were evaluated

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns True for each checkpoint to keep, in their order."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        if self._settings is None:
            return [True] * len(steps)
        kept = set(steps[-self._settings.keep_latest :])
        if self._settings.keep_every:
            kept |= {step for step in steps if step % self._settings.keep_every == 0}
        values = [(self.metrics.get(step, {}).get(self.best_metric), step) for step in steps]
        best = sorted((value, step) for value, step in values if value is not None)
        kept |= {step for _, step in best[max(len(best) - self._settings.keep_best, 0) :]}
        return [step in kept for step in steps]
