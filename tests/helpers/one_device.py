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
    with processes.) `made` lists all runs.
    """

    class OneDevice(run):
        made = []

        def __init__(self, config):
            super().__init__(config, jax.devices()[:1])
            for other in self.made:
                if _compiled(other.config) == _compiled(config):
                    for name in COMPILED:
                        if hasattr(other, name):
                            setattr(self, name, getattr(other, name))
            self.made.append(self)

    return OneDevice
