"""The card's FID and inception score, and the statistics they are against."""

from collections.abc import Callable

from unitok_jax.data.records import Source
from unitok_jax.evaluation import suite
from unitok_jax.evaluation.card import statistics
from unitok_jax.evaluation.card.settings import CardSettings
from unitok_jax.evaluation.evaluator import EvaluationResult, digest
from unitok_jax.evaluation.metrics.frechet import Moments, frechet_distance
from unitok_jax.evaluation.metrics.inception_score import inception_score
from unitok_jax.runtime import processes

FEW = 10_000  # images below which FID says little
_SPLITS, _SHUFFLE = 10, 2020  # of the inception score, as torch-fidelity


class Fid:
    """FID and IS of a pass, and the reference they need: from the cache, or of the pass itself.

    Attributes:
      known: the digest of the pixels whose statistics the cache has; None: it has none.
      given: the moments of `settings.reference`; None: it names none.
      statistics: lines of the card's provenance: which statistics, and their hashes.
    """

    def __init__(self, settings: CardSettings, source: Source, data, weights: str, notes):
        """Reads the reference and looks into the cache.

        Args:
          settings: of the card.
          source: the images to measure.
          data: the `data` config that opens it.
          weights: the digest of Inception's; read where `settings` name some.
          notes: of the card.

        Raises:
          ValueError: the reference is of other data, preprocessing or weights, or is damaged.
        """
        self._settings, self._notes = settings, notes
        self.known, self.given, self.statistics = None, None, {}
        if not settings.inception or len(source) < suite.FEWEST:
            return
        self._facts = {
            "data": statistics.source_facts(data, source),
            **statistics.compared(data.image_size, weights),
            "max_images": settings.max_images,
        }
        if settings.reference:
            self.given, facts = statistics.read(settings.reference)
            self._tell("reference", settings.reference, self.given)
            statistics.check(f"--reference={settings.reference}", facts, self._facts)
            if not facts:
                notes.warn(f"--reference={settings.reference} does not say what it was made with")
        # Only the lead's disk counts: others may have another cache.
        self._path = statistics.cache_path(statistics.cache_folder(settings.cache), self._facts)
        self._cached = None
        if processes.is_lead() and self._path.is_file():
            self._cached = statistics.read(self._path)
        self.known = self._cached and self._cached[1]["digest"]

    def agree(self) -> None:
        """All processes take the lead's word."""
        self.known = processes.from_lead(self.known)

    def measure(
        self, result: EvaluationResult, measure_originals: Callable[[], Moments]
    ) -> dict[str, float]:
        """FID and IS, on process 0 alone; also saves what is asked for.

        Args:
          result: a pass, over the originals too unless the cache knows them.
          measure_originals: a pass over the originals alone, which all processes make where the
            cached statistics are of other pixels.
        """
        notes, count = self._notes, len(result.positions)
        if not self._settings.inception:
            how = "Give --inception=FILE."
            notes.skip("FID, inception score", "no weights of Inception were named", how)
            return {}
        if count < suite.FEWEST:
            reason = f"needs at least {suite.FEWEST} images, and there is {count}"
            notes.skip("FID, inception score", reason, "Give more images as --data.")
            return {}
        if self.known and self.known != result.digest:
            notes.warn(
                "the cached reference was of other pixels than the data has now: it is made anew"
            )
            originals = measure_originals()
        elif self.known:
            originals = self._cached[0] if self._cached else None
        else:
            originals = result.originals.result()
        if self.known != result.digest:
            self._save(originals, result.digest)
        if not processes.is_lead():
            return {}
        cached = self.known == result.digest
        self._tell("originals", "cached" if cached else "of this pass", originals)
        if self._settings.save_reference:
            facts = self._facts | {"digest": result.digest}
            statistics.write(self._settings.save_reference, originals, facts)
        figures = suite.rfid(result, originals)
        if self.given:
            figures["fid_reference"] = frechet_distance(self.given, result.rebuilt.result())
        if count < FEW:
            notes.warn(
                f"FID of {count} images is too high by a bias that falls with their number: "
                f"compare it only with FIDs of as many; published ones have {FEW:,} to 50,000"
            )
        if count < _SPLITS:
            reason = f"needs at least {_SPLITS} images, and there are {count}"
            notes.skip("inception score", reason, "Give more images as --data.")
            return figures
        names = ("inception_score", "inception_score_std")
        scores = inception_score(result.logits, _SPLITS, shuffle_seed=_SHUFFLE)
        return figures | dict(zip(names, scores, strict=True))

    def _tell(self, what, origin, moments):
        """Notes the hash of mu and sigma, float64, by which two cards' references compare."""
        value = digest([moments.mean, moments.covariance])
        self.statistics[f"{what}_statistics"] = f"{origin}, sha256 {value}"

    def _save(self, originals, pixels):
        if processes.is_lead():
            statistics.write(self._path, originals, self._facts | {"digest": pixels})
