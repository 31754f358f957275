"""A script sees and says under `nanguard run` what it sees and says under plain `python`."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

SURROUNDINGS = """
import logging, os, sys, threading, warnings

print(__name__, __file__, __package__, type(__loader__).__name__, __spec__ and (__spec__.name, __spec__.origin))
print(sorted(name for name in globals()))
print(sys.argv, sys.path, os.getcwd())
print(sys.modules["__main__"].__dict__ is globals(), __builtins__ is sys.modules["builtins"])
print(warnings.filters)
print(logging.root.handlers, logging.root.level, logging.lastResort.level)
print([thread.name for thread in threading.enumerate()], sys.excepthook is sys.__excepthook__)
print(sorted(os.environ))
print(f"{1:d}", file=sys.stderr)
"""

# Scripts that say all that can be compared: the same output and the same exit code.
SCRIPTS = {
    "surroundings": SURROUNDINGS,
    "exit_none": "import sys; sys.exit()",
    "exit_negative": "import sys; sys.exit(-1)",
    "exit_true": "import sys; sys.exit(True)",
    "exit_text": "import sys; print('out'); sys.exit('text')",
    "exit_object": "import sys; sys.exit(['a', 1])",
    "raises": "def f():\n    return 1 / 0\n\nf()",
    "raises_from": "try:\n    {}['x']\nexcept KeyError as error:\n    raise ValueError('no x') from error",
    "raises_in_except": "try:\n    {}['x']\nexcept KeyError:\n    int('y')",
    "base_exception": "class Odd(BaseException): pass\n\nraise Odd('odd')",
    "excepthook": "import sys\nsys.excepthook = lambda *args: print('mine', args[0], args[2].tb_next)\n1 / 0",
    "syntax_error": "print('x'\n",
    "no_future_of_ours": "def f(x: print('evaluated')): pass",
    "deprecation": "import warnings\nwarnings.warn('old', DeprecationWarning)\nassert True",
    "syntax_warning": "print(1 is 1)",
    "atexit": "import atexit\natexit.register(print, 'first')\natexit.register(print, 'second')\nprint('end')",
    "thread_after_end": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "print('end')"
    ),
    "thread_raises": "import threading\nthreading.Thread(target=lambda: 1 / 0, name='mine').start()",
    "stdin": "print(input())\nimport sys\nprint(sys.stdin.read())",
    "chdir": "import os\nos.mkdir('sub')\nos.chdir('sub')\nprint(os.getcwd())",
    "pickle": (
        "import pickle\n\nclass Point:\n    x = 1\n\n"
        "print(pickle.loads(pickle.dumps(Point())).x, pickle.dumps(Point())[:40])"
    ),
    "traceback_text": "import traceback\ntry:\n    int('x')\nexcept ValueError:\n    traceback.print_exc()",
    "fork": (
        "import os, sys\npid = os.fork()\n"
        "if pid == 0:\n    print('child', flush=True)\n    sys.exit(4)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    ),
    "spawn": (
        "import multiprocessing, sys\n\n"
        "def work(x):\n    return x + 1, __name__, sys.argv\n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(work, [1, 2]))"
    ),
}


def own(done: Any) -> tuple[str, str, int]:
    """What a watched script has said by itself, without our lines."""
    errors = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("nanguard: ")]
    lines = done.stdout.splitlines(keepends=True)
    assert lines[-1].startswith(("All finite.", "The script ended with exit code"))
    return "".join(lines[:-1]), "".join(errors), done.returncode


def plain(done: Any) -> tuple[str, str, int]:
    """What a script has said under plain python."""
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, tmp_path: Path, python: Any, nanguard: Any) -> None:
    """Output, errors and exit code of a script are those that it has under python."""
    (tmp_path / "script.py").write_text(SCRIPTS[name], encoding="utf-8")
    args = ("script.py", "--epochs", "5", "--json", "x")
    expected = plain(python(*args, stdin="one\ntwo\n"))
    for folder in tmp_path.glob("sub"):
        folder.rmdir()
    assert own(nanguard("run", *args, stdin="one\ntwo\n")) == expected


@pytest.mark.parametrize("name", ["raises", "surroundings", "syntax_error"])
@pytest.mark.parametrize(
    "args",
    [
        ("-m", "package.train"),
        ("-m", "package"),
        ("package",),
        ("./package/train.py",),
        ("package/../package/train.py",),
        ("packed.zip",),
    ],
    ids=" ".join,
)
def test_module_folder_and_zip(name: str, args: tuple[str, ...], tmp_path: Path, python: Any, nanguard: Any) -> None:
    """So they are for a module, a package, a folder, a zip file and a path that is not plain."""
    (tmp_path / "package").mkdir()
    for file in ("__init__.py", "train.py", "__main__.py"):
        (tmp_path / "package" / file).write_text("" if file == "__init__.py" else SCRIPTS[name], encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("__main__.py", SCRIPTS[name])
    assert own(nanguard("run", *args, "-x")) == plain(python(*args, "-x"))


def test_symbolic_link(tmp_path: Path, python: Any, nanguard: Any) -> None:
    """A script behind a link finds its neighbours where the link leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "script.py").write_text("import sys, neighbour\nprint(__file__, sys.path)", encoding="utf-8")
    (tmp_path / "real" / "neighbour.py").write_text("", encoding="utf-8")
    os.symlink("real/script.py", tmp_path / "link.py")
    assert own(nanguard("run", "link.py")) == plain(python("link.py"))


def test_compiled_script(tmp_path: Path, python: Any, nanguard: Any) -> None:
    """A compiled script runs too."""
    import py_compile

    (tmp_path / "script.py").write_text("print(__file__, __name__)", encoding="utf-8")
    py_compile.compile(str(tmp_path / "script.py"), cfile=str(tmp_path / "script.pyc"))
    assert own(nanguard("run", "script.pyc")) == plain(python("script.pyc"))


def test_safe_path(tmp_path: Path, python: Any, nanguard: Any) -> None:
    """Where Python was told to put no folder on the search path, we put none there."""
    (tmp_path / "script.py").write_text("import sys\nprint(sys.path)", encoding="utf-8")
    assert own(nanguard("run", "script.py", PYTHONSAFEPATH="1")) == plain(python("script.py", PYTHONSAFEPATH="1"))


def test_os_exit(tmp_path: Path, nanguard: Any) -> None:
    """`os._exit` ends the process at once, as it always does: there is nobody left to report."""
    (tmp_path / "script.py").write_text("import os\nprint('out', flush=True)\nos._exit(7)", encoding="utf-8")
    done = nanguard("run", "script.py")
    assert (done.stdout, done.returncode) == ("out\n", 7)
