"""Saving a capture to a file, and loading it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from nanguard.backend.stored import new_handle
from nanguard.capture import Capture
from nanguard.capture_file._frames import FrameReader, FrameWriter, cleaned
from nanguard.capture_file._graphs import GraphReader, GraphWriter, Handles
from nanguard.capture_file._read import StepReader
from nanguard.capture_file._tensors import TensorReader, TensorWriter
from nanguard.capture_file._write import StepWriter
from nanguard.capture_file._zip import Reader, Writer
from nanguard.errors import UsageError

SCHEMA = "nanguard.capture/1"
MANIFEST = "manifest.json"
_MOST_HANDLES = 100_000


@dataclass(frozen=True)
class About:
    """The run that a capture is from, as its report tells it.

    Args:
        script: The script or module as the command line named it; empty if none did.
        steps: Optimizer steps that the watch had seen.
        notes: Remarks about healthy things.
    """

    script: str = ""
    steps: int = 0
    notes: tuple[str, ...] = ()


def save(
    capture: Capture,
    path: str,
    *,
    is_users: Callable[[str], bool],
    about: About | None = None,
    force: bool = False,
) -> None:
    """Writes a failed step to a file that replays elsewhere.

    The file is a zip: the step's graphs as protobuf, its tensors as `.npy`, the lines of source that its ops come from,
    and the rest as JSON. The variables of the step are in it, so it has about the size of a checkpoint with the
    optimizer's slots, and it holds the batch: whoever gets the file gets the data.

    What `replay.explain` asked of the data set and of the schedule is in the capture, and goes along: explain first,
    then save. Saved without that, a replay tells the same but for `dataset_rows`, the learning rates, and a data
    pipeline or a schedule that is to blame. An op that needs Python, a file or the machine, such as
    `tf.numpy_function` in a graph, is left out: a replay ends where it stood.

    Args:
        capture: The failed step.
        path: Where to. Written under another name in the same folder first: a file under this one is whole.
        is_users: Whether a file holds the user's own code, such as `guard.source.is_users`: of a library's files only
            the function names are kept.
        about: The run it is from. Defaults to one that is not known.
        force: Whether a file that is there already may be overwritten.

    Raises:
        UsageError: If there is a file and `force` is False, or if the step is too large.
        OSError: If it cannot be written. A file that was there is then still whole.

    Example:

    >>> import tempfile
    >>> from nanguard.capture import Targets
    >>> step = Capture(3, 1, ("weights",), Targets(), None, bad_before=["dense/kernel"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "step.capture")
    ...     save(step, path, is_users=lambda file: False, about=About("train.py"))
    ...     loaded, about = load(path)
    >>> loaded.step, loaded.bad_before, about.script
    (3, ['dense/kernel'], 'train.py')
    """
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists. To overwrite it, add --force.")
    with Writer(path) as archive:
        frames, tensors, handles = FrameWriter(is_users), TensorWriter(archive), Handles()
        graphs = GraphWriter(frames, tensors, handles)
        step = StepWriter(frames, tensors, handles, graphs).capture(capture)
        graphs.write(archive)
        manifest = {
            "schema": SCHEMA,
            "versions": {
                "tensorflow": tf.__version__,
                "keras": _keras_version(),
                "python": platform.python_version(),
            },
            "about": asdict(about or About()),
            **frames.write(archive),
            "tensors": tensors.entries,
            "handles": len(handles),
            "capture": step,
        }
        model = _model_config(capture)
        if model is not None:
            archive.add("model.json", model.encode())
        archive.add(MANIFEST, json.dumps(manifest, separators=(",", ":"), allow_nan=True).encode())


def _keras_version() -> str:
    with contextlib.suppress(ImportError, AttributeError):
        import keras

        return str(keras.__version__)
    return ""


def _model_config(capture: Capture) -> str | None:
    """The model's configuration, for a human reader: no replay needs it."""
    model = next((fit.get("model") for fit in capture.sources if isinstance(fit, dict)), None)
    with contextlib.suppress(Exception):  # a model whose own code does not say how it was made
        return str(model.to_json()) if model is not None else None
    return None


def load(path: str) -> tuple[Capture, About]:
    """Reads a failed step, and the run that it is from.

    The file may come from a stranger: nothing in it is unpickled or run here, no Keras object is made of it, its sizes
    are limited by the size of the file, and an op that may reach files, processes, the network or Python is refused.

    Args:
        path: A file that `save` wrote.

    Returns:
        The capture, for `replay.explain`, and what is known of its run.

    Raises:
        UsageError: If there is no such file, or it is no capture, is damaged, is of another version, or holds an op
            that is refused. One line says which.

    Example:

    >>> try:
    ...     load("no such file")
    ... except UsageError as error:
    ...     print(error)
    no such file cannot be read: No such file or directory.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            with zipfile.ZipFile(stream) as archive:
                return _read(Reader(archive, size), path)
    except UsageError:
        raise
    except OSError as error:
        if error.strerror is None:
            raise UsageError(f"{path} is damaged: {_reason(error)}.") from error
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is no capture, or not all of it is there: {_reason(error)}.") from error
    except Exception as error:  # a forged file can make each line above fail in its own way
        raise UsageError(f"{path} is damaged: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    message = cleaned(" ".join(str(error).split()))[:160].rstrip(".")
    return message if isinstance(error, (ValueError, zipfile.BadZipFile)) else f"{type(error).__name__}: {message}"


def _read(archive: Reader, path: str) -> tuple[Capture, About]:
    if not archive.has(MANIFEST):
        raise UsageError(f"{path} is no capture: it has no {MANIFEST}.")
    manifest = _cleaned(json.loads(archive.read(MANIFEST)))
    schema = str(manifest.get("schema"))
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is of the format {schema[:60]}, and this nanguard reads {SCHEMA}. "
            "To read a newer one, update nanguard."
        )
    _check_version(str(manifest["versions"]["tensorflow"]), path)
    frames = FrameReader(archive, manifest)
    tensors = TensorReader(archive, manifest["tensors"])
    if not 0 <= manifest["handles"] <= _MOST_HANDLES:
        raise ValueError(f"it has {manifest['handles']} variables")
    handles = [new_handle(tf.float32, None) for _ in range(manifest["handles"])]
    graphs = GraphReader(archive, path, frames, tensors, handles)
    capture = StepReader(path, frames, tensors, handles, graphs).capture(manifest["capture"])
    about = manifest["about"]
    return capture, About(str(about["script"]), int(about["steps"]), tuple(map(str, about["notes"])))


def _check_version(version: str, path: str) -> None:
    theirs, ours = (tuple(int(part) for part in each.split(".")[:2]) for each in (version, tf.__version__))
    if theirs > ours:
        raise UsageError(
            f"{path} is from TensorFlow {version}, and here is {tf.__version__}. "
            f"To replay it, use TensorFlow {version} or a newer one."
        )


def _cleaned(value: Any) -> Any:
    """What was read, without characters that a terminal obeys: names and lines of it are printed."""
    if isinstance(value, str):
        return value if value.isprintable() else cleaned(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return value
