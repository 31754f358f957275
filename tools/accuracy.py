"""Measures how well `nanguard run` explains the scripts of tests/cases.

Each case tells in comments what must be found. Its first line gives the facts, a trailing comment marks the line:

    # expect: step=7 born_in=forward op=Log forward_op=null cause=log_of_zero rows=3 dataset_rows=451
    ...
    loss = -tf.math.log(p)  # NG101 here

`null` is JSON's null, `|` parts answers that are equally right, `,` parts the numbers of a list. A key that is left out
is not graded. `file=pieces/helper.py` says that the marked line stands in that file beside the case, `short=1` that the
case belongs to the short run. A script that stays finite says `# expect: healthy`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

CASES = Path(__file__).resolve().parent.parent / "tests" / "cases"
TIMEOUT = 180.0  # seconds for one script

NUMBERS = ("step",)
WORDS = ("born_in", "op", "forward_op", "cause")
NUMBER_LISTS = ("rows", "dataset_rows", "columns")
WORD_LISTS = ("seen_in",)
GRADED = ("step", "born_in", "op", "forward_op", "line", "hazard", "cause", *NUMBER_LISTS, *WORD_LISTS)

_MARK = re.compile(r"# (NG\d{3}(?:\|NG\d{3})*) here\b")


@dataclass(frozen=True)
class Expectation:
    """What a case's comments say.

    Args:
        healthy: Whether training stays finite.
        answers: The right answers by graded key; a key that is absent is not graded.
        short: Whether the case belongs to the short run.
    """

    healthy: bool
    answers: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    short: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run of one case gave.

    Args:
        name: The case's name.
        healthy: Whether it was expected to stay finite.
        found: Whether an incident was reported.
        grades: For each graded key, whether the answer was right.
        faults: What differs, in words; empty where all is right.
        crashed: Whether the run gave no usable report.
        seconds: Wall time.
    """

    name: str
    healthy: bool
    found: bool
    grades: dict[str, bool]
    faults: tuple[str, ...]
    crashed: bool
    seconds: float

    @property
    def is_right(self) -> bool:
        return not self.faults


def parse(script: Path) -> Expectation:
    """Reads the expectation that a case carries in its comments.

    Raises:
        ValueError: If the comments do not say what the format asks for.
    """
    source = script.read_text(encoding="utf-8")
    words = source.split("\n", 1)[0].split()
    if words[:2] != ["#", "expect:"]:
        raise ValueError(f"{script.name}: the first line must begin with `# expect:`.")
    healthy = words[2:3] == ["healthy"]
    keys: dict[str, str] = {}
    for word in words[3 if healthy else 2 :]:
        key, equals, value = word.partition("=")
        if not equals or not value or key in keys:
            raise ValueError(f"{script.name}: each fact must be given once, as key=value. Received: {word}")
        keys[key] = value
    short = keys.pop("short", "0") == "1"
    if healthy:
        if keys:
            raise ValueError(f"{script.name}: a healthy case has no facts. Received: {', '.join(keys)}")
        return Expectation(healthy=True, short=short)
    marked = script.parent / keys.pop("file", script.name)
    answers = {key: tuple(_value(script, key, choice) for choice in text.split("|")) for key, text in keys.items()}
    for key in ("step", "born_in", "cause"):
        if key not in answers:
            raise ValueError(f"{script.name}: `{key}` must be given.")
    marks = _marks(marked)
    if len(marks) > 1 or (not marks and "divergence" not in answers["born_in"]):
        raise ValueError(f"{marked.name}: one line must be marked `# NG... here`. Found: {len(marks)}")
    for number, codes in marks:
        answers |= {"line": ((marked.resolve(), number),), "hazard": codes}
    return Expectation(healthy=False, answers=answers, short=short)


def _value(script: Path, key: str, text: str) -> Any:
    """Turns one answer's text into what the report holds."""
    if key not in NUMBERS + WORDS + NUMBER_LISTS + WORD_LISTS:
        raise ValueError(f"{script.name}: no such fact: {key}")
    if text == "null":
        return None
    if key in NUMBERS:
        return int(text)
    if key in NUMBER_LISTS:
        return sorted(int(number) for number in text.split(","))
    if key in WORD_LISTS:
        return sorted(text.split(","))
    return text


def _marks(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    found = ((number, _MARK.search(line)) for number, line in enumerate(lines, start=1))
    return [(number, tuple(match[1].split("|"))) for number, match in found if match]


def grade(expectation: Expectation, incident: dict[str, Any], directory: Path) -> tuple[dict[str, bool], list[str]]:
    """Compares an incident of a report with what was expected.

    Args:
        expectation: Of a case that does not stay finite.
        incident: The report's first incident.
        directory: Working directory of the run, which the report's paths are relative to.

    Returns:
        Whether each graded key is right, and what differs in words.
    """
    grades, faults = {}, []
    for key in GRADED:
        right = expectation.answers.get(key)
        # A divergence has no line of birth, so neither has it that line's hazard.
        if right is None or (key in ("line", "hazard") and incident.get("born_in") == "divergence"):
            continue
        got = _answer(key, incident, directory)
        grades[key] = got in right
        if not grades[key]:
            wanted = " or ".join(_show(answer) for answer in right)
            faults.append(f"{key}: expected {wanted}, got {_show(got)}")
    return grades, faults


def _answer(key: str, incident: dict[str, Any], directory: Path) -> Any:
    if key == "line":
        where = incident.get("where")
        return where and ((directory / where["file"]).resolve(), where["line"])
    value = incident.get(key)
    return sorted(value) if isinstance(value, list) else value


def _show(answer: Any) -> str:
    if isinstance(answer, tuple):
        path, line = answer
        return f"{path.name}:{line}"
    return json.dumps(answer)


def judge(
    expectation: Expectation, incidents: Sequence[dict[str, Any]], exit_code: int, directory: Path
) -> tuple[dict[str, bool], list[str]]:
    """Compares a whole report with what was expected; what was not found at all is wrong in every graded key."""
    if expectation.healthy:
        if not incidents and exit_code == 0:
            return {}, []
        first = incidents[0] if incidents else {}
        return {}, [f"false alarm: step {first.get('step')}, {first.get('cause')}, exit code {exit_code}"]
    if not incidents:
        return dict.fromkeys(expectation.answers, False), ["not found"]
    grades, faults = grade(expectation, incidents[0], directory)
    if exit_code != 1:
        faults.append(f"exit code: expected 1, got {exit_code}")
    return grades, faults


def run_case(script: Path) -> Outcome:
    """Runs a case under nanguard and grades the report."""
    expectation = parse(script)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        report_path = directory / "report.json"
        command = [sys.executable, "-m", "nanguard", "run", "--json", str(report_path), str(script)]
        exit_code, output, seconds = _execute(command, directory)
        report: dict[str, Any] = {"verdict": "crashed"}
        if exit_code in (0, 1) and report_path.exists():
            report = json.loads(report_path.read_text(encoding="utf-8"))
        if exit_code is None or report["verdict"] == "crashed":
            grades = dict.fromkeys(expectation.answers, False)
            fault = f"no report, exit code {exit_code}: {_last_line(output)}"
            return Outcome(script.stem, expectation.healthy, False, grades, (fault,), True, seconds)
        incidents = report["incidents"]
        grades, faults = judge(expectation, incidents, exit_code, directory)
        return Outcome(script.stem, expectation.healthy, bool(incidents), grades, tuple(faults), False, seconds)


def run_replay(script: Path) -> Outcome:
    """Runs a case under nanguard, replays its capture in an empty folder, and grades what the replay says.

    A replay has to tell the same incident as the run did, to the last field.
    """
    expectation = parse(script)
    if expectation.healthy:
        return run_case(script)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        empty = directory / "empty"
        empty.mkdir()
        capture, report_path, replay_path = directory / "step.capture", directory / "report.json", empty / "report.json"
        nanguard = [sys.executable, "-m", "nanguard"]
        run = [*nanguard, "run", "--json", str(report_path), "--capture", str(capture), str(script)]
        _, output, seconds = _execute(run, directory)
        exit_code, replayed, more_seconds = _execute(
            [*nanguard, "replay", "--json", "report.json", str(capture)], empty
        )
        seconds += more_seconds
        if not report_path.exists() or not replay_path.exists():
            grades = dict.fromkeys(expectation.answers, False)
            fault = f"no replay, exit code {exit_code}: {_last_line(replayed if capture.exists() else output)}"
            return Outcome(script.stem, False, False, grades, (fault,), True, seconds)
        told, again = (json.loads(path.read_text(encoding="utf-8"))["incidents"] for path in (report_path, replay_path))
        grades, faults = judge(expectation, again, exit_code or 0, empty)
        differing = sorted(key for key in told[0] if told[0][key] != again[0].get(key)) if told and again else []
        faults += [f"{key}: not as in the run" for key in differing]
        return Outcome(script.stem, False, bool(again), grades, tuple(faults), False, seconds)


def run_plain(script: Path) -> Outcome:
    """Runs a case under plain Python, which must reach its end."""
    expectation = parse(script)
    with tempfile.TemporaryDirectory() as name:
        exit_code, output, seconds = _execute([sys.executable, str(script)], Path(name))
    faults = () if exit_code == 0 else (f"exit code {exit_code}: {_last_line(output)}",)
    return Outcome(script.stem, expectation.healthy, False, {}, faults, exit_code != 0, seconds)


def _execute(command: Sequence[str], directory: Path) -> tuple[int | None, str, float]:
    """Runs a command; an exit code of None says that it ran out of time."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return None, f"stopped after {TIMEOUT:.0f} s", time.monotonic() - start
    return done.returncode, done.stdout + done.stderr, time.monotonic() - start


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip()[:200] if lines else "no output"


def select(directory: Path, *, only: str = "*", short: bool = False) -> list[Path]:
    """Lists the cases of a directory, by name."""
    scripts = sorted(script.resolve() for script in directory.glob("*.py") if fnmatch(script.stem, only))
    return [script for script in scripts if not short or parse(script).short]


def totals(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """Counts, for each graded key, how many answers are right out of how many were asked."""
    broken = [outcome for outcome in outcomes if not outcome.healthy]
    healthy = [outcome for outcome in outcomes if outcome.healthy]
    counts = {"found": (sum(outcome.found for outcome in broken), len(broken))}
    for key in GRADED:
        grades = [outcome.grades[key] for outcome in broken if key in outcome.grades]
        counts[key] = (sum(grades), len(grades))
    counts["no false alarm"] = (sum(outcome.is_right for outcome in healthy), len(healthy))
    counts["no crash"] = (sum(not outcome.crashed for outcome in outcomes), len(outcomes))
    return counts


def _print_outcome(outcome: Outcome) -> None:
    verdict = "ok" if outcome.is_right else "WRONG"
    print(f"{outcome.name:<44} {outcome.seconds:6.1f} s  {verdict}", flush=True)
    for fault in outcome.faults:
        print(f"{'':<8}{fault}", flush=True)


def _print_totals(outcomes: Sequence[Outcome]) -> None:
    print()
    for key, (right, asked) in totals(outcomes).items():
        if asked:
            print(f"{key:<16} {right:>4} of {asked:<4} {right / asked:6.1%}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="accuracy", description="Measure how well `nanguard run` explains the cases.")
    parser.add_argument("--jobs", type=int, default=2, help="scripts to run at once (default: 2)")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only the cases of such a name")
    parser.add_argument("--cases", type=Path, default=CASES, metavar="DIR", help="where the cases are")
    parser.add_argument("--short", action="store_true", help="only the cases marked short=1")
    parser.add_argument("--check-plain", action="store_true", help="run under plain Python, to exit code 0")
    parser.add_argument("--replay", action="store_true", help="replay the captures elsewhere, and grade the replays")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes here, too")
    options = parser.parse_args(arguments)
    scripts = select(options.cases, only=options.only, short=options.short)
    if not scripts:
        parser.error(f"no case in {options.cases} matches {options.only}")
    run: Callable[[Path], Outcome] = run_plain if options.check_plain else run_replay if options.replay else run_case
    outcomes = []
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(run, scripts):
            _print_outcome(outcome)
            outcomes.append(outcome)
    if not options.check_plain:
        _print_totals(outcomes)
    wrong = sum(not outcome.is_right for outcome in outcomes)
    print(f"\n{len(outcomes) - wrong} of {len(outcomes)} cases right, {time.monotonic() - start:.0f} s.")
    if options.json:
        text = json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
