"""Datasets that tensorflow-datasets prepared as ArrayRecord, without TensorFlow."""

import os
from typing import Any

from unitok_jax.data.formats.array_records import Part, RecordFiles
from unitok_jax.data.formats.folders import CAPTION_KEYS
from unitok_jax.data.formats.labelled import class_names, sentences
from unitok_jax.data.formats.labels import CLASS_TEMPLATES
from unitok_jax.data.formats.shard_names import inside
from unitok_jax.data.formats.tfds_folders import DATA_DIR, open_builder, tfds_errors
from unitok_jax.data.health import SampleError


class TfdsSource:
    """Records of one split of a dataset.

    Args:
        files: records that are tf.train.Example messages.
        features: the `tfds.features.FeaturesDict` that decodes them.
        image: the name of the image feature.
        captions: feature names from the outermost to the texts; () for no captions.
        require_captions: whether a record without a caption is a `SampleError`.
    """

    def __init__(
        self,
        files: RecordFiles,
        features,
        image: str,
        captions: tuple[str, ...] = (),
        require_captions: bool = False,
    ):
        self._files = files
        self._features = features
        self._image = image
        self._caption_names = captions
        self._require_captions = require_captions

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._example(index)
        captions = self._captions(example, index)
        if self._require_captions and not captions:
            raise SampleError(f"{self._files.name(index)} has no caption", "no_caption")
        return {
            "name": self._files.name(index),
            "image": example[self._image],
            "captions": captions,
        }

    def _example(self, index: int) -> dict[str, Any]:
        from tensorflow_datasets import decode

        record = self._files[index]
        try:
            with tfds_errors(self._files.name(index)):
                return self._features.deserialize_example_np(
                    record, decoders={self._image: decode.SkipDecoding()}
                )
        except ValueError as error:
            raise SampleError(str(error), "unreadable") from error

    def _captions(self, example: dict[str, Any], index: int) -> tuple[str, ...]:
        if not self._caption_names:
            return ()
        for name in self._caption_names:
            example = example[name]
        found = [example] if isinstance(example, bytes) else example
        try:
            texts = [text.decode("utf-8").strip() for text in found]
        except UnicodeDecodeError as error:
            raise SampleError(
                f"{self._files.name(index)}: caption is not UTF-8 ({error})", "bad_caption"
            ) from error
        return tuple(text for text in texts if text)


class LabelledTfdsSource(TfdsSource):
    """A `TfdsSource` with captions made of class names."""

    class_templates = CLASS_TEMPLATES

    def __init__(self, files: RecordFiles, features, image: str, names: tuple[str, ...]):
        super().__init__(files, features, image)
        self.class_names = names

    def label(self, index: int) -> int:
        """Returns the class position of record `index`; reads the record, decodes no image."""
        return int(self._example(index)["label"])

    def _captions(self, example: dict[str, Any], index: int) -> tuple[str, ...]:
        label = int(example["label"])
        if label < 0:  # unlabelled test splits
            raise SampleError(f"{self._files.name(index)} has no label", "no_caption")
        return sentences(self.class_names[label])


def tfds_source(path: str, captions: str = "", *, require_captions: bool = True) -> TfdsSource:
    """Opens one split of a dataset that tensorflow-datasets prepared as ArrayRecord.

    Args:
        path: `NAME[/CONFIG][:VERSION][@SPLIT]`, prepared below $TFDS_DATA_DIR or
            ~/tensorflow_datasets; or `FOLDER[@SPLIT]` with the folder of one version. SPLIT is
            as in tensorflow-datasets, `train` or `validation[:10%]`; the default is `train`.
        captions: the feature with the captions, such as `caption` or `captions/text`; for a dataset
            with labels also a file of `LABEL<TAB or space>NAME` lines that name the classes.
            '': the only feature with a name in `CAPTION_KEYS`, or else `label`.
        require_captions: whether a dataset, or a record, without captions is an error.

    Returns:
        a `LabelledTfdsSource` where the captions come from `label`.

    Raises:
        ValueError: no path, no such dataset, version or split, unsuitable features, a dataset
            prepared in another format.
        FileNotFoundError: the dataset was not prepared.
    """
    import tensorflow_datasets as tfds

    name, _, split = path.rpartition("@")
    # An @ may be of the folder's name, too.
    if "@" not in path or "/" in split or os.path.isdir(os.path.expanduser(path)):
        name, split = path, ""
    split = split or "train"
    if not name:
        raise ValueError(
            "data.path is empty: set --config.data.path=NAME[/CONFIG][:VERSION][@SPLIT]"
        )
    builder = open_builder(name)
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"data.path={path}: nothing is prepared at {builder.data_dir}. {_fix(name)}"
        )
    if array_record not in builder.info.available_file_formats():
        raise ValueError(
            f"data.path={path}: {builder.data_dir} was prepared as "
            f"{builder.info.file_format.value}, which has no random access. {_fix(name)}"
        )
    builder.info.set_file_format(array_record, override=True, override_if_initialized=True)
    with tfds_errors(f"data.path={path}"):
        spans = builder.info.splits[split].file_instructions
    parts = [_part(builder.data_dir, span) for span in spans]
    if not parts:
        raise ValueError(f"data.path={path} holds no records")
    files = RecordFiles(parts, "prepare the dataset again")
    features = builder.info.features
    image = _image(features, path)
    texts = _texts(features)
    found = [captions] if captions in texts else []
    if not captions:
        found = [text for text in texts if text.split("/")[-1] in CAPTION_KEYS]
    if len(found) == 1:
        names = tuple(found[0].split("/"))
        return TfdsSource(files, _only(features, image, *found), image, names, require_captions)
    labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    if not found and labelled:
        names = class_names(features["label"].names, captions)
        return LabelledTfdsSource(files, _only(features, image, "label"), image, names)
    if captions or found or require_captions:
        raise ValueError(
            f"data.path={path} has the texts {', '.join(texts) or '(none)'} and no label that is "
            "a class: name one with --config.data.captions"
        )
    return TfdsSource(files, _only(features, image), image)


def _part(folder, span) -> Part:
    """Returns the records of one file, whose name follows a template in the dataset's own files."""
    name = os.path.relpath(os.path.abspath(span.filename), os.path.abspath(folder))
    path = inside(folder, name, f"{folder}/dataset_info.json")
    return Part(path, span.examples_in_shard, span.skip, span.take)


def _fix(name: str) -> str:
    return (
        'Prepare it: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}').download_and_prepare(file_format='array_record')\" with "
        f"{DATA_DIR}=FOLDER (building some datasets needs TensorFlow; reading them does not)"
    )


def _image(features, path: str) -> str:
    import tensorflow_datasets as tfds

    found = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
    if len(found) != 1 and "image" not in found:
        raise ValueError(
            f"data.path={path}: needs one image feature, or one called 'image'; it has "
            f"{', '.join(found) or 'none'} among {', '.join(features)}"
        )
    return "image" if "image" in found else found[0]


def _only(features, *names: str):
    """Restricts features to some names, outer/inner: the rest, such as images and videos, is
    not decoded."""
    import tensorflow_datasets as tfds

    found = {}
    for name in names:
        outer, _, inner = name.partition("/")
        kind = features[outer]
        if inner and isinstance(kind, tfds.features.Sequence):
            kind = tfds.features.Sequence(_only(kind.feature, inner))
        elif inner:
            kind = _only(kind, inner)
        found[outer] = kind
    return tfds.features.FeaturesDict(found)


def _texts(features, prefix: str = "") -> list[str]:
    """Returns the names of all text features, nested ones as outer/inner."""
    import tensorflow_datasets as tfds

    found = []
    for name, kind in features.items():
        inner = kind.feature if isinstance(kind, tfds.features.Sequence) else kind
        if isinstance(inner, tfds.features.Text):
            found.append(prefix + name)
        elif isinstance(inner, tfds.features.FeaturesDict):
            found += _texts(inner, f"{prefix}{name}/")
    return found
