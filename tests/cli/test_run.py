"""`nanguard run`: interruptions, threads, processes and the file that it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from nanguard import cli, report
from nanguard.cli._main import _split
from nanguard.errors import UsageError

from .conftest import DRIVER, heed_interrupts

CLI_DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
INCIDENT = "Found 1 incident: NG101 log-of-nonpositive at train.py:88, step {}."


def write(folder: Path, source: str) -> None:
    """Writes the script under test."""
    (folder / "train.py").write_text(source, encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "parted"),
    [
        ("train.py --json x", ("train.py", "--json x")),
        ("--json x train.py --force", ("--json x train.py", "--force")),
        ("--json=x --force train.py -m y", ("--json=x --force train.py", "-m y")),
        ("--force -m package.train --epochs 5 -- 6", ("--force -m package.train", "--epochs 5 -- 6")),
        ("-mpackage.train --force", ("-mpackage.train", "--force")),
        ("-- -odd.py --force", ("-- -odd.py", "--force")),
        ("--json", ("--json", "")),
        ("", ("", "")),
    ],
)
def test_arguments_are_parted_at_the_script(given: str, parted: tuple[str, str]) -> None:
    """Our arguments end with the script or module; what follows is the script's."""
    own, rest = _split(given.split())
    assert (" ".join(own), " ".join(rest)) == parted


def test_report_of_an_incident(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """The JSON says what the text says, and lies where the command was started, wherever the script went."""
    write(tmp_path, "import os\nimport faketrain\nos.chdir('/')\nfaketrain.step()\nfaketrain.step(nan=True)\n")
    done = nanguard("run", "--json", "report.json", "train.py")
    found = checked_report(tmp_path / "report.json")
    assert done.returncode == 1
    assert (found["verdict"], found["script"], found["script_exit"], found["steps"]) == ("nonfinite", "train.py", 1, 1)
    assert [incident["hazard"] for incident in found["incidents"]] == ["NG101"]
    assert sorted(os.listdir(tmp_path)) == ["report.json", "train.py"]


@pytest.mark.parametrize(
    ("source", "verdict", "code"),
    [
        ("import faketrain\nfaketrain.step()\n", "finite", 0),
        ("import sys\nsys.exit(3)\n", "crashed", 3),
        ("1 / 0\n", "crashed", 1),
        ("x = = 1\n", "crashed", 1),
    ],
)
def test_report_without_an_incident(
    source: str, verdict: str, code: int, tmp_path: Path, nanguard: Any, checked_report: Any
) -> None:
    """Without an incident the verdict follows from the script's exit code."""
    write(tmp_path, source)
    done = nanguard("run", "--json", "report.json", "train.py")
    found = checked_report(tmp_path / "report.json")
    assert (found["verdict"], found["script_exit"], found["incidents"], done.returncode) == (verdict, code, [], code)


def test_report_of_an_unwatched_run(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """The JSON of a run that could not be watched says so, and why."""
    write(tmp_path, "")
    nanguard("run", "--json", "report.json", "train.py", FAKE_PROBLEM="Keras runs on jax.")
    found = checked_report(tmp_path / "report.json")
    assert (found["verdict"], found["watched"]) == ("finite", False)
    assert found["notes"] == ["nothing was watched. Keras runs on jax."]


def test_report_into_a_pipe(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """A device is written into, not replaced, and needs no --force."""
    write(tmp_path, "import faketrain\nfaketrain.step()\n")
    done = nanguard("run", "--json", "/dev/stdout", "train.py")
    assert done.returncode == 0
    assert checked_report(json.loads(done.stdout[: done.stdout.rindex("}") + 1]))["verdict"] == "finite"
    assert not os.path.isfile("/dev/stdout") or os.path.islink("/dev/stdout")


def test_report_survives_a_replay_that_kills_the_process(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """An incident is on file before its replay begins."""
    write(tmp_path, "import faketrain\nfaketrain.step(nan=True)\n")
    done = nanguard("run", "--json", "report.json", "train.py", FAKE_REPLAY="killed")
    found = checked_report(tmp_path / "report.json")
    assert (done.returncode, found["verdict"], found["script_exit"]) == (137, "nonfinite", None)
    assert found["incidents"][0]["notes"] == ["The replay failed: the process ended during the replay."]


def test_report_that_can_no_longer_be_written(tmp_path: Path, nanguard: Any) -> None:
    """If the folder of the report is gone after the run, it is said, and the exit code is 2."""
    (tmp_path / "results").mkdir()
    write(tmp_path, "import faketrain, os\nfaketrain.step()\nos.rmdir('results')\n")
    done = nanguard("run", "--json", "results/report.json", "train.py")
    assert done.returncode == 2
    assert "nanguard: the report could not be written to" in done.stderr
    assert done.stdout == "All finite.\n"


def interrupt(folder: Path, environment: dict[str, str], *args: str) -> tuple[str, str, int]:
    """Runs the command, sends Ctrl-C once the script has printed a line, and gives output, errors and exit code."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    return first + output, errors, process.returncode


def test_interrupt(tmp_path: Path, environment: dict[str, str], checked_report: Any) -> None:
    """Ctrl-C in mid-training: what is known is reported, and the exit code is 130."""
    write(
        tmp_path,
        "import time\nimport faketrain\nfaketrain.step()\nfaketrain.step()\n"
        "print('ready', flush=True)\ntime.sleep(60)\n",
    )
    output, errors, code = interrupt(tmp_path, environment, "run", "--json", "report.json", "train.py")
    assert output == "ready\nInterrupted; 2 steps, all finite.\n"
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "nanguard/cli" not in errors
    assert code == 130
    found = checked_report(tmp_path / "report.json")
    assert (found["verdict"], found["script_exit"], found["steps"]) == ("crashed", 130, 2)


def test_interrupt_that_the_script_handles(tmp_path: Path, environment: dict[str, str]) -> None:
    """A script that catches Ctrl-C ends as it likes."""
    write(
        tmp_path,
        "import time, faketrain\nfaketrain.step()\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved')\n",
    )
    output, _, code = interrupt(tmp_path, environment, "run", "train.py")
    assert (output, code) == ("ready\nsaved\nAll finite.\n", 0)


def test_training_in_a_thread(tmp_path: Path, nanguard: Any) -> None:
    """A training in a thread is stopped, and so is the main thread that waits for it."""
    write(
        tmp_path,
        "import queue, threading\nimport faketrain\n"
        "threading.Thread(target=lambda: faketrain.step(nan=True)).start()\n"
        "queue.Queue().get()\n",
    )
    done = nanguard("run", "train.py")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == INCIDENT.format(0)
    assert "Traceback" not in done.stderr


def test_training_in_a_thread_that_outlives_the_script(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """An incident after the script's last line still ends the process with 1."""
    write(
        tmp_path,
        "import atexit, threading, time\nimport faketrain\n"
        "def train():\n    time.sleep(0.3)\n    faketrain.step(nan=True)\n"
        "atexit.register(print, 'tidied')\n"
        "threading.Thread(target=train).start()\n",
    )
    done = nanguard("run", "--json", "report.json", "train.py")
    assert done.returncode == 1
    assert done.stdout.startswith("tidied\n")
    assert done.stdout.splitlines()[-1] == INCIDENT.format(0)
    assert checked_report(tmp_path / "report.json")["verdict"] == "nonfinite"


def test_feeder_that_never_ends(tmp_path: Path, nanguard: Any) -> None:
    """A thread that waits for ever to feed a training that was stopped keeps neither the report nor the process."""
    write(
        tmp_path,
        "import queue, threading\nimport faketrain\n"
        "batches = queue.Queue(maxsize=1)\n"
        "def feed():\n    while True:\n        batches.put(1)\n"
        "threading.Thread(target=feed).start()\n"
        "faketrain.step(nan=True)\n",
    )
    started = time.monotonic()
    done = nanguard("run", "train.py", FAKE_LEAVE="1")
    assert time.monotonic() - started < 30
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == INCIDENT.format(0)
    assert "nanguard: a thread or process of the script does not end; leaving it\n" in done.stderr


def test_asyncio(tmp_path: Path, nanguard: Any) -> None:
    """A training inside an event loop is stopped like any other."""
    write(
        tmp_path,
        "import asyncio\nimport faketrain\n"
        "async def train():\n    await asyncio.sleep(0)\n    faketrain.step(nan=True)\n"
        "asyncio.run(train())\nprint('not reached')\n",
    )
    done = nanguard("run", "train.py")
    assert done.returncode == 1
    assert "not reached" not in done.stdout
    assert "Traceback" not in done.stderr


def test_forked_child_reports_nothing(tmp_path: Path, nanguard: Any, checked_report: Any) -> None:
    """A child that the script forks is not watched, and writes neither report nor verdict."""
    write(
        tmp_path,
        "import os, sys\nimport faketrain\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    faketrain.step(nan=True)\n    sys.exit(0)\n"
        "os.waitpid(pid, 0)\nfaketrain.step()\n",
    )
    done = nanguard("run", "--json", "report.json", "train.py")
    assert (done.stdout, done.returncode) == ("All finite.\n", 0)
    assert checked_report(tmp_path / "report.json")["verdict"] == "finite"


def test_output_that_nobody_reads(tmp_path: Path, nanguard: Any) -> None:
    """A script that closes its standard output is not punished for it."""
    write(tmp_path, "import sys\nimport faketrain\nfaketrain.step()\nsys.stdout.close()\n")
    done = nanguard("run", "train.py")
    assert (done.stdout, done.returncode) == ("", 0)
    assert "Traceback" not in done.stderr


def test_output_that_is_not_unicode(tmp_path: Path, nanguard: Any) -> None:
    """What a terminal cannot show is escaped."""
    write(tmp_path, "import faketrain\nfaketrain.step()\nfaketrain.note('metric \\u03b1')\n")
    done = nanguard("run", "train.py", PYTHONIOENCODING="ascii")
    assert done.stdout == "  note      metric \\u03b1\nAll finite.\n"


def test_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old report as it was, and no draft."""
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        report.write(report.Report("train.py", 0, 1), str(path))
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_write_goes_through_a_link(tmp_path: Path, checked_report: Any) -> None:
    """A link to a report stays a link."""
    (tmp_path / "real.json").write_text("old", encoding="utf-8")
    os.symlink("real.json", tmp_path / "link.json")
    with pytest.raises(UsageError, match="add --force"):
        report.check_target(str(tmp_path / "link.json"))
    report.check_target(str(tmp_path / "link.json"), force=True)
    report.write(report.Report("train.py", 0, 1), str(tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    assert checked_report(tmp_path / "real.json")["verdict"] == "finite"


@pytest.mark.parametrize("command", ["", "run", "replay", "scan", "clean", "explain"])
def test_docs_hold_the_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/cli.md shows what `--help` says, word for word."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    assert textwrap.indent(capsys.readouterr().out.rstrip(), "    ") in CLI_DOCS.read_text(encoding="utf-8")


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` lists all hazards, and tells one by its code or its name."""
    assert cli.main(["explain"]) == 0
    listing = capsys.readouterr().out
    assert cli.main(["explain", "NG101"]) == 0
    by_code = capsys.readouterr().out
    assert cli.main(["explain", "log-of-nonpositive"]) == 0
    assert capsys.readouterr().out == by_code
    assert "NG101" in listing
    assert "NG707" in listing
    assert "log-of-nonpositive" in by_code


def test_real_watch_without_tensorflow(tmp_path: Path, python: Any) -> None:
    """Until the script imports TensorFlow, the command loads little, and neither TensorFlow nor NumPy."""
    write(tmp_path, "import sys\nprint(sorted(sys.modules))\n")
    done = python("-m", "nanguard", "run", "train.py")
    loaded, verdict = done.stdout.splitlines()
    for name in ("numpy", "keras", "tensorflow", "logging", "nanguard.replay", "multiprocessing", "asyncio"):
        assert f"'{name}'" not in loaded
    assert verdict == "Nothing was watched."
    assert done.stderr == (
        "nanguard: watching train.py\nnanguard: nothing was watched. The script imported no TensorFlow.\n"
    )
    assert done.returncode == 0
