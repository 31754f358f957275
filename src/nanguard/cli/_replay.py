"""`nanguard replay`: a captured step, run again and explained."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import zipfile

from nanguard import report
from nanguard.errors import NanguardError, UsageError
from nanguard.findings import Incident


def replay(path: str, *, json_path: str | None = None, force: bool = False) -> int:
    """Runs a captured step again and prints what was found.

    Args:
        path: The capture.
        json_path: Where to write the report as JSON. Defaults to nowhere.
        force: Whether a file at `json_path` may be overwritten.

    Returns:
        The exit code: 1 for an incident, 0 for an ordinary step, 2 where the report could not be written.

    Raises:
        UsageError: If the capture cannot be replayed, or the report cannot be written.
    """
    if not os.path.exists(path):
        raise UsageError(f"there is no capture {path}.")
    if json_path is not None:
        report.check_target(json_path, force=force)
    if not zipfile.is_zipfile(path):  # told before TensorFlow takes its seconds to load
        raise UsageError(f"{path} is no capture, or not all of it is there: it is no zip file.")
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            "TensorFlow is not installed here. To install it: pip install 'nanguard[tf]', or 'nanguard[tf-cpu]' where "
            "there is no GPU."
        )
    # Ops that fail while the replay asks its questions would be logged, each of them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from nanguard import capture_file

    capture, about = capture_file.load(path)
    print(f"nanguard: replaying step {capture.step} of {about.script or path}", file=sys.stderr)
    incident = _explained(capture)
    incidents = () if incident is None else (incident,)
    found = report.Report(about.script or path, 1 if incidents else 0, about.steps, incidents, about.notes)
    code = 1 if incidents else 0
    if json_path is not None:
        try:
            report.write(found, json_path)
        except OSError as error:
            print(f"nanguard: the report could not be written to {json_path}: {error.strerror}", file=sys.stderr)
            code = code or 2
    with contextlib.suppress(BrokenPipeError):  # a reader such as `head` may be gone
        print(report.text(found), end="", flush=True)
    return code


def _explained(capture: object) -> Incident | None:
    from nanguard import replay as replays

    try:
        return replays.explain(capture)  # type: ignore[arg-type]
    except NanguardError as error:
        reason = str(error)
    except Exception as error:  # a forged or foreign step may fail in any op
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return replays.outline(capture, reason)  # type: ignore[arg-type]
