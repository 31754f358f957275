"""`nanguard run`: a script under watch, and the report of what was found."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import importlib.util
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, TextIO

from nanguard import report
from nanguard.cli import _script
from nanguard.cli._script import Target
from nanguard.errors import NanguardError
from nanguard.findings import Incident

__all__ = ["Instruments", "Session", "Target", "Watch", "run"]


class Watch(Protocol):
    """What a session asks of the watch; `nanguard.guard.Watch` is one."""

    @property
    def steps(self) -> int:
        """Optimizer steps seen so far."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks about healthy things."""

    @property
    def problem(self) -> str | None:
        """Why the watch could not be installed, in one sentence."""

    def arm(self) -> None:
        """Makes the watch install itself once the script imports TensorFlow."""

    def disarm(self) -> None:
        """Takes it out again."""


OnCapture = Callable[[Any], bool]


def _watch(on_capture: OnCapture) -> Watch:
    from nanguard import guard

    return guard.Watch(on_capture)


def _explain(capture: Any) -> Incident | None:
    from nanguard import replay

    return replay.explain(capture)


def _outline(capture: Any, reason: str) -> Incident:
    from nanguard import replay

    return replay.outline(capture, reason)


def _save(capture: Any, path: str, script: str, steps: int, notes: Sequence[str]) -> None:
    from nanguard import capture_file
    from nanguard.guard import source

    about = capture_file.About(script, steps, tuple(notes))
    capture_file.save(capture, path, is_users=source.is_users, about=about, force=True)


@dataclass(frozen=True)
class Instruments:
    """What a session works with. The defaults are loaded when they are first called: a healthy run needs no replay.

    Args:
        watch: Makes the watch; it is given what to call at a failed step, on the thread that trains. That ends the
            script by an exception, or returns False where there was no incident.
        explain: Replays a captured step. None: the step was an ordinary one, such as an overflow of a scaled gradient.
        outline: Says what is known of a captured step without a replay, and why there is none.
        save: Writes a captured step to a path, with the script's name, the steps seen and the watch's notes.
    """

    watch: Callable[[OnCapture], Watch] = _watch
    explain: Callable[[Any], Incident | None] = _explain
    outline: Callable[[Any, str], Incident] = _outline
    save: Callable[[Any, str, str, int, Sequence[str]], None] = _save


def run(
    target: Target,
    *,
    json_path: str | None = None,
    capture_path: str | None = None,
    force: bool = False,
    instruments: Instruments | None = None,
) -> int:
    """Runs a script under watch. The report comes when the interpreter exits, after all that the script says itself.

    Args:
        target: What to run.
        json_path: Where to write the report as JSON. Defaults to nowhere.
        capture_path: Where to write the first failed step, for a replay elsewhere. Defaults to nowhere.
        force: Whether files at these paths may be overwritten.
        instruments: What to watch and replay with. Defaults to the guard and the replay.

    Returns:
        The exit code.

    Raises:
        UsageError: If there is no such script, or the report cannot be written.
    """
    _script.check(target)
    if json_path is not None:
        report.check_target(json_path, force=force)
        json_path = os.path.abspath(json_path)  # the script may change the working directory
    if capture_path is not None:
        report.check_target(capture_path, force=force, what="the capture")
        capture_path = os.path.abspath(capture_path)
    session = Session(target, json_path, instruments or Instruments(), capture_path)
    # The first to be registered is the last to be called: after the script's own handlers and its threads.
    atexit.register(session.exit)
    return session.run()


class Session:
    """One watched run, from the start of the script to its report."""

    # A stopped script may never end: what feeds the training waits for a step that will not come.
    seconds_to_report = 3.0
    seconds_to_leave = 30.0

    def __init__(
        self, target: Target, json_path: str | None, instruments: Instruments, capture_path: str | None = None
    ) -> None:
        self._target = target
        self._capture_path = capture_path
        self._save_capture = instruments.save
        self._json_path = json_path
        self._explain = instruments.explain
        self._outline = instruments.outline
        self._watch = instruments.watch(self._on_capture)
        self._incidents: list[Incident] = []
        self._ending: _script.Ending | None = None
        self._is_replaying = False
        self._is_closed = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._stdout = sys.stdout
        self._stderr = sys.stderr
        self._exit_code = 0
        self._frames: list[FrameType] = []

    def run(self) -> int:
        """Runs the script and gives the exit code that the process is to end with, as far as is known by then."""
        self._say(f"watching {self._target.name}")
        self._watch.arm()
        try:
            self._ending = _script.execute(self._target, is_stopped=lambda: bool(self._incidents))
        except BaseException:
            self._is_closed = True
            raise
        if os.getpid() != self._process:
            return self._ending.code
        if _is_tensorflow_missing(self._ending.error):
            self._say(
                "TensorFlow is not installed here. To install it: pip install 'nanguard[tf]', "
                "or 'nanguard[tf-cpu]' where there is no GPU"
            )
        self._exit_code = 1 if self._incidents else self._ending.code
        if self._incidents:
            threading.Thread(target=self._leave, name="nanguard-exit", daemon=True).start()
        return self._exit_code

    def exit(self) -> None:
        """Reports, as the last thing that the process does."""
        # A child that the script forked inherits the handler, but not the run.
        if os.getpid() != self._process:
            return
        code = self._close()
        if code != self._exit_code or self._incidents:
            # An incident may be found after the exit code was settled, in a thread that outlived the script's last
            # line; and what a stopped training leaves behind can take TensorFlow the better part of a minute to end.
            self._flush()
            os._exit(code)

    def _on_capture(self, capture: Any) -> bool:
        if self._is_replaying or os.getpid() != self._process:
            return False
        if not self._incidents and not self._is_found(capture):
            return False
        if threading.current_thread() is not threading.main_thread() and self._ending is None:
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell script
                threading.Thread(target=self._leave, name="nanguard-exit", daemon=True).start()
            else:
                _interrupt_main()
        # An exit, since every layer that a training may run in (threads, event loops, pools) hands it on quietly where
        # it would log another exception, and since `except Exception` does not swallow it. No subclass: a thread keeps
        # quiet about this very type alone.
        stop = SystemExit(f"nanguard stopped the script: step {capture.step} was not finite")
        stop.code = 1
        raise stop

    def _is_found(self, capture: Any) -> bool:
        self._is_replaying = True
        self._say(f"step {capture.step} is not finite; replaying it")
        try:
            if self._json_path is not None:
                # Left behind if the replay takes the whole process down, as one that runs out of memory may.
                self._save(self._report((self._outline(capture, "the process ended during the replay"),)))
            incident = self._replay(capture)
        finally:
            self._is_replaying = False
        if incident is None:
            self._say(f"step {capture.step} is an ordinary one, going on")
            return False
        if self._capture_path is not None and not self._incidents:
            self._write_capture(capture, self._capture_path)
        self._incidents.append(incident)
        # Freeing the iterator of a stopped training can wait for its threads: not before the report is out.
        self._frames = list(_frames(sys._getframe(1)))
        return True

    def _replay(self, capture: Any) -> Incident | None:
        try:
            # The step's own code may run again; what it prints the script has printed already.
            with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                return self._explain(capture)
        except MemoryError:
            reason = "it ran out of memory"
        except KeyboardInterrupt:
            reason = "it was interrupted"
        except BaseException as error:
            reason = _reason(error)
        # Outside the handler, where the frames of the failed replay, and the memory they hold, are gone.
        self._say(f"the replay failed: {reason}")
        return self._outline(capture, reason)

    def _write_capture(self, capture: Any, path: str) -> None:
        try:
            self._save_capture(capture, path, self._target.name, self._watch.steps, self._watch.notes)
        except Exception as error:  # the incident is told all the same
            reason = error.strerror if isinstance(error, OSError) and error.strerror else _reason(error)
            self._say(f"no capture was written: {reason}")
        else:
            shown = os.path.relpath(path) if path.startswith(os.path.join(os.getcwd(), "")) else path
            self._say(f"wrote the step; to run it again: nanguard replay {shlex.quote(shown)}")

    def _report(self, incidents: tuple[Incident, ...]) -> report.Report:
        problem = self._unwatched()
        notes = self._watch.notes if problem is None else [*self._watch.notes, f"nothing was watched. {problem}"]
        code = None if self._ending is None else self._ending.code
        return report.Report(
            self._target.name, code, self._watch.steps, incidents, tuple(notes), watched=problem is None
        )

    def _unwatched(self) -> str | None:
        if self._watch.problem is not None:
            return self._watch.problem
        return "The script imported no TensorFlow." if sys.modules.get("tensorflow") is None else None

    def _close(self) -> int:
        with self._lock:
            if self._is_closed:
                return self._exit_code
            self._is_closed = True
            self._flush()
            self._watch.disarm()
            found = self._report(tuple(self._incidents))
            code = 1 if self._incidents else self._exit_code
            if not self._save(found):
                code = code or 2
            if self._watch.problem is not None or (found.verdict == "finite" and not found.watched):
                self._say(found.notes[-1])
            elif found.verdict == "finite":
                self._say(f"watched {_steps(found.steps)}")
            self._print(self._stdout, ("\n" if self._incidents else "") + report.text(found))
            return code

    def _save(self, found: report.Report) -> bool:
        if self._json_path is None:
            return True
        try:
            report.write(found, self._json_path)
        except OSError as error:
            self._say(f"the report could not be written to {self._json_path}: {error.strerror}")
            return False
        return True

    def _leave(self) -> None:
        time.sleep(self.seconds_to_report)
        self._close()
        time.sleep(self.seconds_to_leave - self.seconds_to_report)
        self._say("a thread or process of the script does not end; leaving it")
        self._flush()
        os._exit(1)

    def _say(self, message: str) -> None:
        self._print(self._stderr, f"nanguard: {message}\n")

    def _print(self, stream: TextIO, content: str) -> None:
        # The script may have closed the stream, or a reader such as `head` may be gone; neither is worth a traceback.
        with contextlib.suppress(OSError, ValueError):
            encoding = stream.encoding or "utf-8"
            stream.write(content.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()

    def _flush(self) -> None:
        files = [thing for thing in gc.get_objects() if isinstance(thing, io.IOBase)]
        for stream in (sys.stdout, sys.stderr, self._stdout, self._stderr, *files):
            with contextlib.suppress(Exception):
                stream.flush()


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _reason(error: BaseException) -> str:
    message = " ".join(str(error).split())[:160].rstrip(".")
    if isinstance(error, NanguardError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _steps(count: int) -> str:
    return {0: "no training step", 1: "1 step"}.get(count, f"{count} steps")


def _interrupt_main() -> None:
    """Ends the main thread, which would wait for the training or go on with what it left."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _is_tensorflow_missing(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in ("tensorflow", "keras"):
            return importlib.util.find_spec("tensorflow") is None
        error = error.__cause__ or error.__context__
    return False
