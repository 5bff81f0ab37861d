"""Times of exchanges between devices: bytes on the links of a machine, with rings."""

from unitok_jax.planning.hlo import Collective
from unitok_jax.planning.machines import Topology


def sent_bytes(collective: Collective, size: float) -> float:
    """Returns the bytes that every device sends, with rings, for a result of `size` bytes."""
    n = collective.devices
    return (
        size
        * {
            "all-reduce": 2 * (n - 1) / n,
            "all-gather": (n - 1) / n,
            "reduce-scatter": n - 1,
            "all-to-all": (n - 1) / n,
            "collective-permute": 1,
        }[collective.kind]
    )


def seconds(collective: Collective, size: float, devices: int, machine: Topology) -> float:
    """Returns the time of a collective on the links.

    In a slice all links where all devices take part, else those of one axis. Between nodes as many
    rings run as a node has members of the group, each over the adapter of another one; what is sent
    to single devices goes over the adapter of the sender.
    """
    chip, links = machine.per_device, machine.per_device.links
    if collective.nodes > 1:
        rings = collective.kind in ("all-reduce", "all-gather", "reduce-scatter")
        adapters = collective.devices / collective.nodes if rings else 1
        links = min(links, adapters * chip.network)
    elif collective.devices < devices:
        links /= machine.axes
    return sent_bytes(collective, size) / links
