"""Folders prepared by tensorflow-datasets, opened without importing anything that they name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unitok_jax.data.formats.recognise import other_format
from unitok_jax.system.foreign_json import parse, parse_object
from unitok_jax.system.paths import is_regular, is_remote, is_there

DATA_DIR = "TFDS_DATA_DIR"  # tensorflow-datasets' own environment variable
_MAX_CLASSES = 10**6  # limit on the stated number of classes, whose names are made
_FILES = ("dataset_info.json", "features.json")  # files that name Python classes

# tensorflow-datasets imports the module of any other class that a file names, then refuses it.
_PREFIX = "tensorflow_datasets.core.features."
_FEATURES = {
    "audio_feature.Audio",
    "bounding_boxes.BBoxFeature",
    "class_label_feature.ClassLabel",
    "dataset_feature.Dataset",
    "feature.Tensor",
    "features_dict.FeaturesDict",
    "image_feature.Image",
    "labeled_image.LabeledImage",
    "scalar.Scalar",
    "sequence_feature.Sequence",
    "tensor_feature.Tensor",
    "text_feature.Text",
    "translation_feature.Translation",
    "translation_feature.TranslationVariableLanguages",
    "video_feature.Video",
}
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_COUNT_KEYS = ("numClasses", "num_classes")
_FILE_KEYS = ("names_file", "labels")  # a string here is the path of a file that would be read


def open_builder(name: str):
    """Returns the builder of a dataset, which may turn out not to be prepared.

    Args:
        name: NAME[/CONFIG][:VERSION] below `DATA_DIR`, or the folder of one version.

    Raises:
        ValueError: no such dataset or version; files that are damaged or name other classes than
            tensorflow-datasets' features.
        FileNotFoundError: the folder holds no prepared dataset.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder) or os.path.isabs(folder):
        return _of_folder(Path(folder), name)
    return _of_name(name)


def _of_folder(folder: Path, name: str):
    import tensorflow_datasets as tfds

    if not (is_there(folder / _FILES[0]) and is_regular(folder / _FILES[0])):
        other = other_format(folder, "tfds")
        raise FileNotFoundError(
            f"data.path={name}: no prepared dataset is there (no {_FILES[0]}); give the folder of "
            "one version, with its dataset_info.json" + (f". {other}" if other else "")
        )
    _check_folder(folder)
    with tfds_errors(f"data.path={name}"):
        return tfds.builder_from_directory(folder)


def _of_name(name: str):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    data_dir = os.environ.get(DATA_DIR, "~/tensorflow_datasets")
    if is_remote(data_dir):
        raise ValueError(f"{DATA_DIR}={data_dir}: records are read from a local or mounted disk")
    with tfds_errors(f"data.path={name}", f" Looked in {data_dir} ({DATA_DIR})"):
        dataset, _ = naming.parse_builder_name_kwargs(name)
    if dataset.namespace:  # tensorflow-datasets would download such a dataset and its code
        raise ValueError(
            f"data.path={name}: {dataset.namespace}: is a place on the internet; prepare the "
            "dataset and give its name or folder"
        )
    data_dir = Path(data_dir).expanduser()
    for depth in ("*", "*/*"):  # versions, and versions of a configuration
        for folder in sorted((data_dir / dataset.name).glob(depth)):
            if folder.is_dir():
                _check_folder(folder)
    with tfds_errors(f"data.path={name}", f" Looked in {data_dir} ({DATA_DIR})"):
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)


@contextlib.contextmanager
def tfds_errors(where: str, hint: str = "") -> Iterator[None]:
    """Turns errors of tensorflow-datasets in the block into ValueErrors that begin with `where`.

    A disk's OSError passes through.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{where}: its features cannot be read without TensorFlow ({_line(error)})"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{where}: {_line(error)}{hint}") from error
    except Exception as error:  # it raises many types, and re-raises as others
        raise ValueError(f"{where}: {_line(error)}{hint}") from error


def _line(error: Exception) -> str:
    lines = str(error).partition("\nAvailable datasets")[0].strip().splitlines()
    return " ".join(line.strip() for line in lines[:4])[:500] or type(error).__name__


def _check_folder(folder: Path) -> None:
    """Refuses Python classes named by files of a version's folder, before they are imported."""
    for file in _FILES:
        path = folder / file
        if not os.path.lexists(path):
            continue
        if not is_regular(path):
            raise ValueError(f"{path} is no file")
        with open(path, "rb") as opened:
            content = parse_object(opened.read(), str(path))
        # The other entries of `dataset_info.json` are descriptions and counts.
        content = content if file == "features.json" else content.get("features")
        try:
            _check(content, path)
        except RecursionError as error:
            raise ValueError(f"{path}: the JSON is nested too deeply") from error


def _check(value: Any, path: Path) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item, path)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in _CLASS_KEYS and isinstance(item, str):
            if item.removeprefix(_PREFIX) not in _FEATURES or not item.startswith(_PREFIX):
                raise ValueError(
                    f"{path} names the class {item!r:.100}, which is no feature of "
                    "tensorflow-datasets; what a data file names is not imported"
                )
        elif key in _COUNT_KEYS and _count(item) > _MAX_CLASSES:
            raise ValueError(f"{path}: {key}={item!r:.40} is more than {_MAX_CLASSES} classes")
        elif key in _FILE_KEYS and isinstance(item, str):
            raise ValueError(f"{path} names the file {item!r:.100}, which is not read")
        elif key in ("json", "content") and isinstance(item, str):  # features as JSON in a string
            _check(parse(item, f"{path}: {key}"), path)
        else:
            _check(item, path)


def _count(item: Any) -> float:
    try:
        return float(item)
    except (TypeError, ValueError):  # tensorflow-datasets refuses it
        return 0
