"""The card's FID and inception score, and the statistics they are against."""

from unitok_jax import cluster, reference
from unitok_jax.evaluate.frechet import frechet_distance
from unitok_jax.evaluate.inception_score import inception_score
from unitok_jax.evaluation import Pass, digest

RESIZE = "bicubic with antialiasing (Pillow), aspect kept, then centre crop"
FEW = 10_000  # images below which FID says little
_SPLITS, _SHUFFLE = 10, 2020  # of the inception score, as torch-fidelity


class Fid:
    """FID and IS of a pass, and the reference they need: from the cache, or of the pass itself."""

    def __init__(self, args, job, notes):
        """What the command line asks for.

        Args:
          args: of the command.
          job: that measures: its data, networks and how it makes a pass.
          notes: of the card.

        Raises:
          ValueError: --reference is of other data, preprocessing or weights, or is damaged.
        """
        self._job, self._args, self._notes = job, args, notes
        self.known, self.given, self.statistics = None, None, {}
        if not args.inception or len(job.source) < 2:
            return
        self._facts = {
            "data": reference.source_facts(job.data, job.source),
            "preprocessing": {"size": list(job.size), "resize": RESIZE},
            "inception": job.digests["inception"],
            "max_images": args.max_images,
        }
        if args.reference:
            self.given, facts = reference.read(args.reference)
            self._tell("reference", args.reference, self.given)
            reference.check(args.reference, facts, self._facts)
            if not facts:
                notes.warn(f"--reference={args.reference} does not say what it was made with")
        # Only the lead's disk counts: others may have another cache.
        self._path = reference.cache_path(reference.cache_folder(args.cache), self._facts)
        self._cached = None
        if cluster.is_lead() and self._path.is_file():
            self._cached = reference.read(self._path)
        self.known = self._cached and self._cached[1]["digest"]

    def agree(self) -> None:
        """All processes take the lead's word."""
        self.known = cluster.from_lead(self.known)

    def measure(self, found: Pass, source) -> dict[str, float]:
        """FID, IS; and saves what is asked for."""
        notes, count = self._notes, len(found.positions)
        if not self._args.inception:
            how = "Give --inception=FILE."
            notes.skip("FID, inception score", "no weights of Inception were named", how)
            return {}
        if count < 2:
            reason = f"needs at least 2 images, and there is {count}"
            notes.skip("FID, inception score", reason, "Give more images as --data.")
            return {}
        if self.known and self.known != found.digest:
            notes.warn(
                "the cached reference was of other pixels than the data has now: it is made anew"
            )
            originals = self._job.run(source, what="originals").originals.result()
        elif self.known:
            originals = self._cached[0] if self._cached else None
        else:
            originals = found.originals.result()
        if self.known != found.digest:
            self._save(originals, found.digest)
        if not cluster.is_lead():
            return {}
        cached = self.known == found.digest
        self._tell("originals", "cached" if cached else "of this pass", originals)
        if self._args.save_reference:
            facts = self._facts | {"digest": found.digest}
            reference.write(self._args.save_reference, originals, facts)
        rebuilt = found.rebuilt.result()
        out = {"rfid": frechet_distance(originals, rebuilt)}
        if self.given:
            out["fid_reference"] = frechet_distance(self.given, rebuilt)
        if count < FEW:
            notes.warn(
                f"FID of {count} images is too high by a bias that falls with their number: "
                f"compare it only with FIDs of as many; published ones have {FEW:,} to 50,000"
            )
        if count < _SPLITS:
            reason = f"needs at least {_SPLITS} images, and there are {count}"
            notes.skip("inception score", reason, "Give more images as --data.")
            return out
        names = ("inception_score", "inception_score_std")
        scores = inception_score(found.logits, _SPLITS, shuffle_seed=_SHUFFLE)
        return out | dict(zip(names, scores, strict=True))

    def _tell(self, what, origin, moments):
        """Notes the hash of mu and sigma, float64, by which two cards' references compare."""
        value = digest([moments.mean, moments.covariance])
        self.statistics[f"{what}_statistics"] = f"{origin}, sha256 {value}"

    def _save(self, originals, pixels):
        if cluster.is_lead():
            reference.write(self._path, originals, self._facts | {"digest": pixels})
