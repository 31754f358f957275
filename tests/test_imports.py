"""The house: which room may import which, and what `import nanguard` loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nanguard

SOURCE = Path(nanguard.__file__).parent

# From the top of the house to its bottom; docs/design.md says what each room is for. A room imports those above it.
HOUSE = (
    "errors",
    "intervals",
    "hazards",
    "findings",
    "backend",
    "ops",
    "losses",
    "clipping",
    "clean",
    "capture",
    "capture_file",
    "guard",
    "replay",
    "lint",
    "check",
    "testing",
    "report",
    "cli",
)
# Rooms that load no TensorFlow, Keras or NumPy.
LIGHT = ("intervals", "errors", "hazards", "findings", "lint", "report", "cli")
HEAVY = {"tensorflow", "keras", "numpy"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in HOUSE)


def room_of(path: Path) -> str:
    """Gives the room that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Gives the full names of all modules, and of what is taken from them, that a file imports anywhere in it."""
    names = set()
    package = ["nanguard", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    """Gives the rooms of the house that a file imports from, its own left out."""
    parts = [name.split(".") for name in imported(path)]
    return {part[1] for part in parts if part[0] == "nanguard" and len(part) > 1} & set(HOUSE) - {room_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_up_the_house(path: Path) -> None:
    """A file imports only rooms above its own; so there is no circle."""
    assert room_of(path) in HOUSE, "a new room: give it its place in HOUSE and in docs/design.md"
    above = set(HOUSE[: HOUSE.index(room_of(path))])
    assert rooms_imported(path) <= above


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in LIGHT], ids=lambda path: path.name)
def test_light_rooms_import_nothing_heavy(path: Path) -> None:
    """A light room names no heavy package, not even inside a function."""
    assert not {name.partition(".")[0] for name in imported(path)} & HEAVY


def test_the_reader_of_imports_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to write an import are seen by the tests above."""
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "guard").mkdir()
    file = tmp_path / "guard" / "watch.py"
    file.write_text(
        "import nanguard.cli\nfrom nanguard import report\nfrom nanguard.replay import explain\n"
        "from ..lint import rules\nfrom . import hooks\nfrom .. import check\n"
        "def f():\n    import nanguard.losses as losses\n",
        encoding="utf-8",
    )
    assert rooms_imported(file) == {"cli", "report", "replay", "lint", "check", "losses"}


def test_import_loads_nothing_heavy() -> None:
    """`import nanguard`, and what its light names need, loads neither TensorFlow nor Keras nor NumPy."""
    names = "Incident NanguardError Report hazards report"
    code = (
        "import sys, nanguard\n"
        f"for name in {names.split()}: getattr(nanguard, name)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", nanguard.__all__)
def test_top_level_name(name: str) -> None:
    """Every name that the package lists is there, and `dir` shows it."""
    assert getattr(nanguard, name) is not None
    assert name in dir(nanguard)


def test_unknown_top_level_name() -> None:
    """A name that is not there is an AttributeError, as everywhere."""
    with pytest.raises(AttributeError, match="has no attribute 'gaurd'"):
        nanguard.gaurd  # noqa: B018


def test_saved_model_loads_after_the_bare_import(tmp_path: Path) -> None:
    """Where Keras is there already, `import nanguard` is enough to load a model with an op and a loss in it."""
    made = (
        "import keras, nanguard as ng\n"
        "x = keras.Input((2,))\n"
        "model = keras.Model(x, keras.layers.Dense(1)(ng.ops.log(x)))\n"
        "model.compile('sgd', ng.losses.MeanSquaredError())\n"
        "model.save('model.keras')\n"
    )
    loaded = "import keras, nanguard\nprint(type(keras.models.load_model('model.keras').loss).__module__)\n"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for code in (made, loaded):
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    assert done.stdout.strip() == "nanguard.losses.regression"
