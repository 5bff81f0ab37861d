"""Training runs on one device, in a test's own process."""

import jax

COMPILED = ("programs", "evaluator")  # attributes of runs that hold compiled functions


def _compiled(config):
    found = config.to_dict()
    del found["checkpoint"], found["log"], found["optim"]["max_skipped"]
    return found


def of(run):
    """Returns a subclass of a run that takes a configuration alone, for `loop.train`.

    Runs of equal configurations, but for what is saved and written when, share what is compiled:
    one that resumes traces and compiles nothing again. (That a new process resumes alike is tested
    with processes.) `last` is the newest run.
    """

    class OneDevice(run):
        last = None
        _shared = []  # (what was compiled for, attributes): runs would keep their networks alive

        def __init__(self, config):
            super().__init__(config, jax.devices()[:1])
            OneDevice.last, key = self, _compiled(config)
            for known, attributes in self._shared:
                if known == key:
                    vars(self).update(attributes)
                    return
            mine = {name: value for name, value in vars(self).items() if name in COMPILED}
            self._shared.append((key, mine))

    return OneDevice
