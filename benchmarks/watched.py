"""Wrapper of `unitok_jax.main` that logs its batches: a line `step checksum` each, in a file.

    NOTES=FILE python -m benchmarks.watched [flags of unitok_jax.main]

The line is written before the loop gets the batch, whose arrays the checksum covers.
"""

import os
import runpy
import zlib


class _Noted:
    """Iterator that passes batches through and logs each."""

    def __init__(self, batches, start: int):
        self._batches, self._step, self.health = batches, start, batches.health
        self._file = open(os.environ["NOTES"], "a", buffering=1)

    def __next__(self):
        batch, checksum = next(self._batches), 0
        self._step += 1
        for name in sorted(batch):
            checksum = zlib.crc32(batch[name].tobytes(), checksum)
        self._file.write(f"{self._step} {checksum}\n")
        return batch

    def close(self) -> None:
        self._file.close()
        self._batches.close()


def main() -> None:
    """Runs the command with its batches logged."""
    from unitok_jax.tokenizer import run

    batches = run.Run.batches
    run.Run.batches = lambda self, start: _Noted(batches(self, start), start)
    runpy.run_module("unitok_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
