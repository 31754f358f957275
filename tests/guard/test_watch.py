"""The watch comes and goes without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import nanguard
from nanguard.backend import execution, graphs, seams
from nanguard.guard import Watch

SOURCE = str(Path(nanguard.__file__).parents[1])


def run(code: str, folder: Path, **environment: str) -> str:
    """What a fresh interpreter prints that has `folder` first on its path."""
    path = os.pathsep.join([str(folder), SOURCE, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def attributes() -> dict[tuple[str, str], int]:
    """Identity of each attribute of all that the watch may attach to."""
    owners = [
        tf.GradientTape,
        tf.Variable,
        execution.context_class(),
        *seams.variable_classes(),
        seams.atomic_function_class(),
        seams.tracing_module(),
        seams.keras_layer_class(),
        keras.Model,
        keras.Variable,
        *seams.keras_optimizer_class().__mro__,
        *seams.keras_loss_scale_class().__mro__,
        seams.keras_trainer_class(),
        seams.keras_callbacks_class(),
    ]
    return {(repr(owner), name): id(value) for owner in owners for name, value in vars(owner).items()}


def test_arm_loads_no_tensorflow(tmp_path: Path):
    """Arming and disarming loads neither TensorFlow nor Keras nor NumPy, and leaves no finder behind."""
    code = (
        "import sys\n"
        "from nanguard.guard import Watch\n"
        "finders = list(sys.meta_path)\n"
        "watch = Watch(print)\n"
        "watch.arm()\n"
        "print(len(sys.meta_path) - len(finders), watch.steps, watch.notes, watch.problem)\n"
        "watch.disarm()\n"
        "watch.disarm()\n"
        "print(sys.meta_path == finders, sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))\n"
    )
    assert run(code, tmp_path) == "1 0 [] None\nTrue []\n"


def test_disarm_restores_every_attribute():
    """After `disarm` every attribute is the very object that it was; while armed, some are not."""
    before = attributes()
    watch = Watch(lambda capture: False)
    watch.arm()
    during = attributes()
    watch.disarm()
    assert attributes() == before
    changed = {key[1] for key in before if during[key] != before[key]}
    assert {"gradient", "call_function", "assign", "apply", "fit", "__call__"} <= changed
    watch.disarm()  # a second time is no error
    assert attributes() == before


def test_disarm_stops_the_recording():
    """After `disarm` no op is seen, and gradients run through TensorFlow's own function again."""
    callbacks = list(execution._context.context().op_callbacks)
    watch = Watch(lambda capture: False)
    watch.arm()
    assert len(execution._context.context().op_callbacks) == len(callbacks) + 1
    assert _forward_op_of_a_gradient() is not None
    watch.disarm()
    assert execution._context.context().op_callbacks == callbacks
    assert _forward_op_of_a_gradient() is None


def _forward_op_of_a_gradient() -> Any:
    @tf.function
    def slope(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sqrt(x)
        return tape.gradient(y, x)

    graph = slope.get_concrete_function(tf.constant(1.0)).graph
    return graphs.forward_op(next(op for op in graph.get_operations() if op.type == "SqrtGrad"))


def test_functions_of_the_watch_keep_their_names():
    """What the watch puts in a function's place looks like it: name, module, docstring."""

    def look() -> tuple[Any, ...]:
        fit = keras.Model.fit
        return fit.__name__, fit.__qualname__, fit.__module__, fit.__doc__

    before = look()
    watch = Watch(lambda capture: False)
    watch.arm()
    try:
        assert look() == before
    finally:
        watch.disarm()


def test_two_watches_one_after_another(watched: Any):
    """A process can be watched again after a watch was taken out."""
    first = Watch(lambda capture: False)
    watched.watch.disarm()
    first.arm()
    first.disarm()
    watched.watch = Watch(watched._on_capture)
    watched.watch.arm()
    weight = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        loss = tf.sqrt(weight * 0.0)
    with pytest.raises(watched.Stopped):
        tape.gradient(loss, weight)
    assert len(watched.captures) == 1


def test_another_backend_is_a_problem(tmp_path: Path):
    """Keras on another backend is named as the problem; TensorFlow is not loaded, and the script is left alone."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text("from keras import config\nLayer = object\n", encoding="utf-8")
    (tmp_path / "keras" / "config.py").write_text("def backend():\n    return 'jax'\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from nanguard.guard import Watch\n"
        "watch = Watch(print)\n"
        "watch.arm()\n"
        "import keras\n"
        "print(watch.problem)\n"
        "print(keras.Layer is object, 'tensorflow' in sys.modules, watch.steps)\n"
        "watch.disarm()\n"
    )
    problem, rest = run(code, tmp_path).splitlines()
    assert "jax" in problem
    assert "tensorflow" in problem
    assert rest == "True False 0"


def test_tensorflow_that_has_moved_is_a_problem(tmp_path: Path):
    """A TensorFlow without the parts that the watch attaches to is named with its version; the script runs on."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("__version__ = '9.9.9'\n", encoding="utf-8")
    code = (
        "from nanguard.guard import Watch\n"
        "watch = Watch(print)\n"
        "watch.arm()\n"
        "import tensorflow\n"
        "print(tensorflow.__version__, '|', watch.problem)\n"
    )
    version, _, problem = run(code, tmp_path).partition("|")
    assert version.strip() == "9.9.9"
    assert "9.9.9" in problem


def test_error_in_an_import_is_the_scripts_own(tmp_path: Path):
    """A module that fails while it is imported fails in the same way under the watch."""
    (tmp_path / "tensorflow.py").write_text("raise ValueError('its own')\n", encoding="utf-8")
    code = (
        "from nanguard.guard import Watch\n"
        "watch = Watch(print)\n"
        "watch.arm()\n"
        "try:\n"
        "    import tensorflow\n"
        "except ValueError as error:\n"
        "    print(error, watch.problem)\n"
    )
    assert run(code, tmp_path) == "its own None\n"
