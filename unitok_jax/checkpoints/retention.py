"""Retention of checkpoints: the newest, the best, and one every fixed number of steps."""

from ml_collections import ConfigDict


class Preservation:
    """A preservation policy of Orbax.

    Orbax's `max_to_keep` with `best_fn` would delete the newest checkpoint, and `BestN` alone
    forgets the best checkpoint at a restart.
    """

    def __init__(self, config: ConfigDict | None):
        self._config = config
        self.best_metric = config.best_metric if config is not None else ""
        self.metrics = {}  # step -> {best_metric: value} of those that were evaluated

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns True for each checkpoint to keep, in their order."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        if self._config is None:
            return [True] * len(steps)
        kept = set(steps[-self._config.keep_latest :])
        if self._config.keep_every:
            kept |= {step for step in steps if step % self._config.keep_every == 0}
        values = [(self.metrics.get(step, {}).get(self.best_metric), step) for step in steps]
        best = sorted((value, step) for value, step in values if value is not None)
        kept |= {step for _, step in best[len(best) - self._config.keep_best :]}
        return [step in kept for step in steps]
