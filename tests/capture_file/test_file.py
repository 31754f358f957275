"""A step comes out of its file as it went in."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanguard import capture_file, replay
from nanguard.capture import Capture, Targets
from nanguard.errors import UsageError
from nanguard.guard import source

from .conftest import WAYS, Saved

Steps = Callable[[str], Saved]


@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_step_gives_the_same_incident(way: str, steps: Steps) -> None:
    """An explanation of what was loaded is the explanation of what was saved, to the last field."""
    saved = steps(way)
    capture, about = capture_file.load(str(saved.path))
    incident = replay.explain(capture)
    assert incident is not None
    assert json.dumps(incident.to_json()) == json.dumps(saved.incident)
    assert about == capture_file.About("train.py", 2, ("a note",))


@pytest.mark.parametrize("way", WAYS)
def test_an_explanation_leaves_a_capture_as_it_was(way: str, steps: Steps) -> None:
    """A capture can be explained twice, with the same incident."""
    incident = replay.explain(steps(way).capture)
    assert incident is not None
    assert json.dumps(incident.to_json()) == json.dumps(steps(way).incident)


def test_a_loaded_step_can_be_saved(steps: Steps, tmp_path: Path) -> None:
    """What was loaded can be written to another file, which gives the same incident."""
    capture, about = capture_file.load(str(steps("graph").path))
    path = tmp_path / "again.capture"
    capture_file.save(capture, str(path), is_users=source.is_users, about=about)
    incident = replay.explain(capture_file.load(str(path))[0])
    assert incident is not None
    assert json.dumps(incident.to_json()) == json.dumps(steps("graph").incident)


def test_the_file_holds_no_library_path(steps: Steps) -> None:
    """Of the stacks only the user's own files have names."""
    with zipfile.ZipFile(steps("graph").path) as archive:
        files = json.loads(archive.read("manifest.json"))["files"]
    assert files
    main = ("pytest/__main__.py", "bin/pytest")  # the script that runs is always the user's
    assert not [file for file in files if "site-packages" in file and not file.endswith(main)]


def test_nothing_is_overwritten_without_force(steps: Steps, tmp_path: Path) -> None:
    """A file that is there stays, unless it is to be overwritten; and nothing else is left in the folder."""
    path = tmp_path / "step.capture"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"exists\. To overwrite it, add --force"):
        capture_file.save(steps("graph").capture, str(path), is_users=source.is_users)
    assert path.read_text() == "mine"
    capture_file.save(steps("graph").capture, str(path), is_users=source.is_users, force=True)
    assert zipfile.is_zipfile(path)
    assert os.listdir(tmp_path) == ["step.capture"]


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    """A capture that cannot be written leaves no file, and the old one whole."""
    capture = Capture(0, None, ("loss",), Targets(), None, stack=[("train.py", 1)])  # type: ignore[list-item]
    path = tmp_path / "step.capture"
    path.write_text("mine")
    with pytest.raises(ValueError, match="unpack"):
        capture_file.save(capture, str(path), is_users=source.is_users, force=True)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["step.capture"]


def test_weights_between_steps(tmp_path: Path) -> None:
    """A capture without a step, of weights that a callback has spoilt, goes into a file as well."""
    capture = Capture(3, 1, ("weights",), Targets(), None, bad_before=["dense/kernel"], history=[(2, np.nan, {})])
    path = tmp_path / "step.capture"
    capture_file.save(capture, str(path), is_users=source.is_users)
    loaded, about = capture_file.load(str(path))
    assert loaded.bad_before == ["dense/kernel"]
    assert np.isnan(loaded.history[0][1])
    assert about == capture_file.About()
