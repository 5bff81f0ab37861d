"""Faults of what is fed and where it lies: recipes, crops, order, mixtures, shards, masks."""

from . import Mutation

DEFAULT, CROPS = "configs/default.py", "unitok_jax/data/images/crops.py"
ORDER, MIXTURE = "unitok_jax/data/order.py", "unitok_jax/data/mixture.py"
BUCKETS, TEST_BUCKETS = "unitok_jax/data/buckets.py", "tests/data/test_buckets.py"
SHARDING = "unitok_jax/runtime/sharding.py"
RANDOMNESS, TEST_ORDER = "tests/training/test_randomness.py", "tests/data/test_order.py"
PIPELINE, TEST_PIPELINE = "unitok_jax/data/pipeline.py", "tests/data/test_pipeline.py"
IMAGES = "unitok_jax/tokenizer/evaluation_images.py"
TEST_IMAGES = "tests/tokenizer/test_evaluation_images.py"
PLAN, TEST_SIZES = "unitok_jax/tokenizer/plan.py", "tests/tokenizer/test_sizes.py"
TEST_SHARDING, TEST_CONFIGS = "tests/runtime/test_sharding.py", "tests/test_configs.py"

MUTATIONS = [
    Mutation(
        "a recipe without stochastic depth",
        DEFAULT,
        "model.drop_path = 0.1",
        "model.drop_path = 0.0",
        f"{TEST_CONFIGS} -k test_recipe",
    ),
    Mutation(
        "a recipe of square crops alone",
        DEFAULT,
        "data.crop_ratio = (3 / 4, 4 / 3)",
        "data.crop_ratio = (1.0, 1.0)",
        f"{TEST_CONFIGS} -k test_recipe",
    ),
    Mutation(
        "a recipe without augmentations",
        DEFAULT,
        "gan.augment_probability = 1.0",
        "gan.augment_probability = 0.0",
        f"{TEST_CONFIGS} -k test_recipe",
    ),
    Mutation(
        "a recipe of the paper's learning rate",
        DEFAULT,
        "optim.learning_rate = 5e-4",
        "optim.learning_rate = 1e-3",
        f"{TEST_CONFIGS} -k test_recipe",
    ),
    Mutation(
        "images of a new size that begin with the run's first samples",
        PIPELINE,
        "first_batch=max(first, start_step)",
        "first_batch=start_step",
        f"{TEST_PIPELINE} -k Sizes",
    ),
    Mutation(
        "a change of size that comes late in a run that resumes",
        PIPELINE,
        "batches=end - max(first, start_step)",
        "batches=end - first",
        f"{TEST_PIPELINE} -k Sizes",
    ),
    Mutation(
        "an adversary that is planned a step early",
        PLAN,
        "else adversary.first",
        "else adversary.start",
        f"{TEST_SIZES} -k planned",
    ),
    Mutation(
        "the same turns of the buckets in every epoch",
        BUCKETS,
        "default_rng((self._seed, epoch))",
        "default_rng((self._seed, 0))",
        f"{TEST_BUCKETS} -k anew",
    ),
    Mutation(
        "buckets that take turns in their order",
        BUCKETS,
        "rng.permutation(buckets)",
        "buckets",
        f"{TEST_BUCKETS} -k anew",
    ),
    Mutation(
        "an epoch that leaves out what fills no batch",
        BUCKETS,
        "epoch * count // self._batch_size for",
        "epoch * (count // self._batch_size) for",
        f"{TEST_BUCKETS} -k no_image_is_used",
    ),
    Mutation(
        "batches of a bucket in another order than its images'",
        BUCKETS,
        'np.argsort(shuffled, kind="stable")',
        "np.arange(len(shuffled))",
        f"{TEST_BUCKETS} -k every_image_once",
    ),
    Mutation(
        "a bucket that cannot fill a batch",
        BUCKETS,
        "if count >= 2 * batch_size]",
        "if count]",
        f"{TEST_BUCKETS} -k leaves_its_images",
    ),
    Mutation(
        "a batch of the ends of two passes, with an image twice",
        BUCKETS,
        "again = np.isin(first, last)",
        "again = np.isin(first, last[:0])",
        f"{TEST_BUCKETS} -k holds_an_image_twice",
    ),
    Mutation(
        "image sizes that begin with a start's first batch",
        "unitok_jax/data/reading.py",
        "self._shape_of(self._first + batch)",
        "self._shape_of(batch)",
        f"{TEST_BUCKETS} -k resuming",
    ),
    Mutation(
        "an image that is kept at the size of another bucket",
        PIPELINE,
        "out[...] = self._kept[index, size]",
        "out[...] = next(v for (i, _), v in self._kept.items() if i == index)",
        f"{TEST_BUCKETS} -k next_good",
    ),
    Mutation(
        "shapes of turned images as they are stored",
        "unitok_jax/data/images/transforms.py",
        "(height, width) if orientation(data) < 5 else (width, height)",
        "(height, width)",
        "tests/data/test_transforms.py -k Upright",
    ),
    Mutation(
        "areas from half of their range",
        CROPS,
        "rng.uniform(scale[0], scale[1])",
        "rng.uniform(scale[0], (scale[0] + scale[1]) / 2)",
        f"{RANDOMNESS} -k areas",
    ),
    Mutation(
        "aspects that are uniform themselves",
        CROPS,
        "math.exp(rng.uniform(math.log(low), math.log(high)))",
        "rng.uniform(low, high)",
        f"{RANDOMNESS} -k aspects",
    ),
    Mutation(
        "crops that never reach the last row",
        CROPS,
        "rng.integers(0, height - h + 1)",
        "rng.integers(0, max(1, height - h))",
        f"{RANDOMNESS} -k every_place",
    ),
    Mutation(
        "crops that never reach the last column",
        CROPS,
        "rng.integers(0, width - w + 1)",
        "rng.integers(0, max(1, width - w))",
        f"{RANDOMNESS} -k every_place",
    ),
    Mutation(
        "the same permutation within windows in every epoch",
        ORDER,
        "(self._seed, epoch, window)",
        "(self._seed, window)",
        f"{TEST_ORDER} -k new_order",
    ),
    Mutation(
        "the same order of blocks in every epoch",
        ORDER,
        "default_rng((self._seed, epoch)).permutation(len(sizes))",
        "default_rng((self._seed, 0)).permutation(len(sizes))",
        f"{TEST_ORDER} -k new_order",
    ),
    Mutation(
        "the same order in parts alike",
        ORDER,
        "order(part, seed + number, window)",
        "order(part, seed, window)",
        f"{TEST_ORDER} -k parts_alike",
    ),
    Mutation(
        "one crop for every sample",
        ORDER,
        "Philox(key=[seed, position])",
        "Philox(key=[seed, 0])",
        f"{TEST_ORDER} -k generators",
    ),
    Mutation(
        "parts in turn, whatever their weights",
        ORDER,
        "grain.MapDataset.mix(shifted, source.weights)",
        "grain.MapDataset.mix(shifted)",
        f"{TEST_ORDER} -k by_weight",
    ),
    Mutation(
        "a part that is a sample too small for its share",
        MIXTURE,
        "share = math.ceil(",
        "share = math.floor(",
        f"{TEST_ORDER} -k too_small",
    ),
    Mutation(
        "the smallest axis split over devices",
        SHARDING,
        "key=lambda axis: -shape[axis]",
        "key=lambda axis: shape[axis]",
        f"{TEST_SHARDING} -k test_rule",
    ),
    Mutation(
        "an axis split that devices do not divide",
        SHARDING,
        "if shape[axis] % fsdp == 0:",
        "if shape[axis] >= fsdp:",
        f"{TEST_SHARDING} -k test_rule",
    ),
    Mutation(
        "masked rows counted as images",
        "unitok_jax/evaluation/metrics/reconstruction.py",
        "np.asarray(values, np.float64)[mask]",
        "np.asarray(values, np.float64)",
        "tests/training/test_metrics.py -k mean_over_images",
    ),
    Mutation(
        "masked rows counted as features",
        "unitok_jax/evaluation/metrics/frechet.py",
        "features = features[np.asarray(mask)]",
        "features = features[np.asarray(mask) | True]",
        "tests/evaluation/test_frechet.py",
    ),
    Mutation(
        "masked rows counted as codes that changed",
        "unitok_jax/evaluation/metrics/agreement.py",
        "changed = changed[np.asarray(mask)]",
        "changed = changed[np.asarray(mask) | True]",
        "tests/evaluation/test_agreement.py",
    ),
    Mutation(
        "an rFID of one image",
        "unitok_jax/evaluation/suite.py",
        "result.logits is None or len(result.positions) < FEWEST",
        "result.logits is None",
        "tests/evaluation/test_evaluation.py -k one_image",
    ),
    Mutation(
        "a font's picture of unknown flags as a country's",
        "unitok_jax/data/formats/emoji_font.py",
        "return [_NO_CHARACTER, _NO_COUNTRY]",
        "return [_NO_CHARACTER]",
        "tests/data/test_emoji.py -k has_and_draws",
    ),
    Mutation(
        "every skin tone of a profession trained",
        "unitok_jax/data/formats/emoji.py",
        "% len(_TONES) == tones[0]",
        "% len(_TONES) == -1",
        "tests/data/test_emoji.py -k one_skin_tone",
    ),
    Mutation(
        "retrieval among no captions",
        "unitok_jax/evaluation/suite.py",
        "captions is not None and len(captions.tokens)",
        "captions is not None",
        "tests/evaluation/test_evaluation.py -k asked_for",
    ),
    Mutation(
        "bad training images that come back on resuming",
        IMAGES,
        "if resumed and self._settings.source:",
        "if resumed:",
        f"{TEST_IMAGES} -k left_out_and_told",
    ),
]
