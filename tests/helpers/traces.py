"""Traces that a profiled run leaves."""

import gzip
import json


def traced_steps(workdir):
    """The numbers of the steps in each trace of a workdir, oldest trace first."""
    paths = sorted((workdir / "profile").glob("plugins/profile/*/*.trace.json.gz"))
    for path in paths:
        assert path.with_name(path.name.replace("trace.json.gz", "xplane.pb")).stat().st_size
    traces = [json.loads(gzip.decompress(path.read_bytes()))["traceEvents"] for path in paths]
    return [
        [int(event["args"]["step_num"]) for event in trace if event.get("name") == "train"]
        for trace in traces
    ]
