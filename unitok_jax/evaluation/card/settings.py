"""Choices of a card, beside its tokenizer and its data."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class CardSettings:
    """Choices of a card's figures; messages name each value as the command's flag.

    Attributes:
      checkpoint, data: what the card and messages call the tokenizer and the data.
      max_images: the first images of the data; 0: all.
      batch_size: of all devices, rounded up to a multiple of them.
      inception, lpips: files of weights, or 'seeded'; empty: nothing that needs them.
      reference: an .npz with mu and sigma to compare to; empty: none.
      save_reference: a new .npz for the originals' mu and sigma; None: none.
      cache: a folder of statistics; empty: the user's cache.
      labels: names of the data's classes, as `data.labels.label_set` takes them; None: its own.
      templates: sentences with {}, as there; None: those that belong to the names.
      probe: labelled training images of a linear probe, as `data.specs.data_config` takes them;
        empty: no probe.
      probe_method: 'logistic' or 'ridge'.
      text: False: nothing that needs the text tower.

    Raises:
      ValueError: values that are out of range or do not go together.
    """

    checkpoint: str
    data: str
    max_images: int = 50_000
    batch_size: int = 64
    inception: str = ""
    lpips: str = ""
    reference: str = ""
    save_reference: pathlib.Path | None = None
    cache: str = ""
    labels: str | None = None
    templates: str | None = None
    probe: str = ""
    probe_method: str = "logistic"
    text: bool = True

    def __post_init__(self):
        for name, least in (("max_images", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}={getattr(self, name)} must be at least {least}")
        for name in ("reference", "save_reference"):
            if getattr(self, name) and not self.inception:
                raise ValueError(f"--{name} needs Inception: give its weights as --inception=FILE")
        if self.templates and not self.text:
            raise ValueError("--templates means nothing with --no_text; leave one of them out")

    @property
    def networks(self) -> dict[str, str]:
        """The networks to measure with: 'inception', 'lpips' -> weights."""
        named = {"inception": self.inception, "lpips": self.lpips}
        return {kind: weights for kind, weights in named.items() if weights}
