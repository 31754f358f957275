"""Where the watch is attached to TensorFlow and Keras, and what each place tells it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs, seams
from nanguard.backend.patches import Patches
from nanguard.backend.values import is_finite
from nanguard.capture import Capture, Forward
from nanguard.guard import variables as script_variables
from nanguard.guard.captures import Captures
from nanguard.guard.compiled import CompiledWatch
from nanguard.guard.eager import Recorder, numbers
from nanguard.guard.eager_watch import EagerWatch, half_square
from nanguard.guard.graph import GraphWatch
from nanguard.guard.thread import Thread


class Hooks:
    """The attached watch.

    Args:
        watch: Where captures go.
    """

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.graph = GraphWatch()
        self.compiled = CompiledWatch(self.graph)
        self._thread = Thread()
        self._captures = Captures(self._thread)
        self._eager = EagerWatch(self._thread, self._captures, self.graph.unscaled, self._report)
        self._patches = Patches()
        self._raised: Exception | None = None
        self._compiled_names: dict[bytes, bool] = {}

    # -- putting hooks in and out

    def install_tensorflow(self) -> None:
        """Attaches to TensorFlow."""
        tape = tf.GradientTape
        self._patches.wrap(tape, "__enter__", self._wrap_enter)
        self._patches.wrap(tape, "__exit__", self._wrap_exit)
        self._patches.wrap(tape, "gradient", self._wrap_gradient)
        self._patches.wrap(execution.context_class(), "call_function", self._wrap_call_function)
        for name in ("assign", "assign_add", "assign_sub"):
            for kind in seams.variable_classes():
                if name in kind.__dict__:
                    self._patches.wrap(kind, name, self._wrap_assign)
        self._patches.wrap(seams.atomic_function_class(), "__init__", self._wrap_new_function)
        self._patches.wrap(seams.tracing_module(), "func_graph_from_py_func", self._wrap_trace)
        self._run_gradient = execution.gradient_function()
        execution.set_gradient_function(self._gradient_function)
        self._ensure_recorder()

    def install_keras(self) -> None:
        """Attaches to Keras."""
        if self._patches.has("scale_loss"):
            return
        self._patches.wrap(seams.keras_layer_class(), "__call__", self._wrap_layer)
        self._patches.wrap(seams.keras_optimizer_class(), "apply", self._wrap_apply)
        self._patches.wrap(seams.keras_loss_scale_class(), "apply", self._wrap_apply)
        self._patches.wrap(seams.keras_loss_scale_class(), "scale_loss", self._wrap_scale_loss)
        self._patches.wrap(seams.keras_trainer_class(), "fit", self._wrap_fit)
        self._patches.wrap(seams.keras_trainer_class(), "make_train_function", self._wrap_make_train_function)
        self._patches.wrap(seams.keras_callbacks_class(), "on_epoch_begin", self._wrap_epoch)
        self._patches.wrap(seams.keras_callbacks_class(), "on_epoch_end", self._wrap_epoch_end)

    def begin_fit(self, model: Any, epoch: int | None, fit: dict[str, Any]) -> None:
        """Tells of a call of `fit` that began before the watch was attached."""
        self._captures.fits.append({"model": model, "args": (), "kwargs": {}, **fit})
        self._captures.epoch = epoch

    def remove(self) -> None:
        """Detaches from everything."""
        if self._patches:
            execution.set_gradient_function(self._run_gradient)
        self._patches.remove()
        if self._thread.recorder is not None:
            execution.unwatch_ops(self._thread.recorder)

    def steps(self) -> int:
        """Optimizer steps made since the hooks went in."""
        by_hand = sum(int(ring.count.numpy()) for ring in self.graph.rings_of_hand)
        recorder: Recorder | None = self._thread.recorder
        if recorder is not None and recorder.is_by_hand:
            by_hand += 1
        return self._captures.steps() + by_hand

    def _safely(self, act: Callable[[], Any], otherwise: Any) -> Any:
        """Runs a part of the watch; an error of its own is noted, and must not stop a training that works."""
        try:
            return act()
        except Exception as error:
            if error is self._raised:
                raise  # whoever takes the captures ends the script with it
            note = f"A part of the training is not watched: {type(error).__name__}: {error}".split("\n")[0][:300]
            if note not in self.watch.notes:
                self.watch.notes.append(note)
            return otherwise

    # -- TensorFlow

    def _ensure_recorder(self) -> Recorder:
        recorder: Recorder | None = self._thread.recorder
        if recorder is None:
            recorder = self._thread.recorder = Recorder(self._thread)
        if not execution.is_watched(recorder):
            execution.watch_ops(recorder)
        return recorder

    def _wrap_enter(self, enter: Any) -> Any:
        def __enter__(tape: Any) -> Any:
            thread = self._thread
            if tf.executing_eagerly() and not thread.is_busy:
                recorder = self._ensure_recorder()
                if not thread.tapes:
                    if recorder.is_by_hand:
                        self._captures.hand_steps += 1
                    recorder.start_step()
                recorder.is_recording = True
            thread.tapes.append(tape)
            return enter(tape)

        return __enter__

    def _wrap_exit(self, leave: Any) -> Any:
        def __exit__(tape: Any, *error: Any) -> Any:
            if tape in self._thread.tapes:
                self._thread.tapes.remove(tape)
            return leave(tape, *error)

        return __exit__

    def _wrap_gradient(self, gradient: Any) -> Any:
        def wrapped(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            thread = self._thread
            flat = tf.nest.flatten(sources)
            is_inner = bool(thread.tapes) and thread.tapes[0] is not tape
            if thread.is_busy or is_inner or not any(script_variables.is_variable(v) for v in flat):
                return gradient(tape, target, sources, *args, **kwargs)
            self._safely(lambda: self._captures.inspect([v for v in flat if script_variables.is_variable(v)]), None)
            if tf.executing_eagerly():
                recorder = self._ensure_recorder()
                recorder.is_recording = True
                result = gradient(tape, target, sources, *args, **kwargs)
                self._safely(lambda: self._eager.check_gradients(recorder, target, flat, tf.nest.flatten(result)), None)
                return result
            result = gradient(tape, target, sources, *args, **kwargs)
            grads = tf.nest.flatten(result)
            if graphs.current() is None or len(grads) != len(flat):
                return result
            pairs = [
                (v, grad) if script_variables.is_variable(v) else (v, None) for v, grad in zip(flat, grads, strict=True)
            ]
            safe = self._safely(lambda: self.graph.on_gradient(tf.nest.flatten(target), pairs), [None] * len(pairs))
            safe = [new if new is not None else old for new, old in zip(safe, grads, strict=True)]
            return tf.nest.pack_sequence_as(sources, safe)

        return wrapped

    def _wrap_call_function(self, call: Any) -> Any:
        def call_function(context: Any, name: bytes, inputs: Any, num_outputs: int) -> Any:
            if self._thread.is_busy:
                return call(context, name, inputs, num_outputs)
            is_compiled = self._compiled_names.get(name)
            if is_compiled is None:
                is_compiled = self._compiled_names[name] = graphs.is_compiled_function(name.decode())
            if is_compiled:
                with self._thread.ours():
                    outputs, sighting = self.compiled.call(call, context, name, inputs, num_outputs)
                if sighting is not None:
                    self._report(self._captures.traced(sighting))
                return outputs
            try:
                outputs = call(context, name, inputs, num_outputs)
            except Exception:
                self._look()
                raise
            if self.graph.sightings:
                self._look()
            elif self.graph.huge is not None:
                self._look_after_huge()
            return outputs

        return call_function

    def _wrap_assign(self, assign: Any) -> Any:
        def wrapped(variable: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            graph = graphs.current()
            if graph is None or self._thread.is_busy or self._thread.applying or graphs.is_compiled(graph):
                return assign(variable, value, *args, **kwargs)
            kind = script_variables.kind_of_write()
            if kind == "weight" and not variable.trainable:
                kind = "state"
            wait = self._safely(lambda: self.graph.on_assign(variable, value, kind), None)
            with tf.control_dependencies([wait] if wait is not None else []):
                return assign(variable, value, *args, **kwargs)

        return wrapped

    def _wrap_new_function(self, init: Any) -> Any:
        def __init__(function: Any, name: Any, *args: Any, **kwargs: Any) -> None:
            init(function, name, *args, **kwargs)
            graph = function._cached_graph
            if graph is not None:
                graphs.remember(function.name.decode(), graph)

        return __init__

    def _wrap_trace(self, trace: Any) -> Any:
        def func_graph_from_py_func(name: Any, python_func: Any, *args: Any, **kwargs: Any) -> Any:
            def traced(*func_args: Any, **func_kwargs: Any) -> Any:
                result = python_func(*func_args, **func_kwargs)
                graph = graphs.current()
                if graph is not None:
                    if self._thread.layers:
                        graphs.note_outer_layer(graph, self._thread.layers[-1])
                    if not graphs.is_compiled(graph):
                        self._safely(lambda: self.graph.finish(graph), None)
                return result

            return trace(name, traced, *args, **kwargs)

        return func_graph_from_py_func

    def _gradient_function(
        self, op_name: str, attrs: Any, num_inputs: int, inputs: Any, outputs: Any, *rest: Any
    ) -> Any:
        graph = graphs.current()
        if graph is not None:
            op = _forward_of(op_name, inputs, outputs)
            with graphs.gradient_of(graph, op) if op is not None else contextlib.nullcontext():
                return self._run_gradient(op_name, attrs, num_inputs, inputs, outputs, *rest)
        thread = self._thread
        before, thread.forward = thread.forward, Forward(op_name, numbers(inputs), numbers(outputs))
        try:
            return self._run_gradient(op_name, attrs, num_inputs, inputs, outputs, *rest)
        finally:
            thread.forward = before

    # -- Keras

    def _wrap_layer(self, call: Any) -> Any:
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:
            layers = self._thread.layers
            path = f"{layers[-1]}/{layer.name}" if layers else layer.name
            layers.append(path)
            graph = graphs.current()
            first = graphs.num_operations(graph) if graph is not None else 0
            try:
                return call(layer, *args, **kwargs)
            finally:
                layers.pop()
                if graph is not None:
                    graphs.note_layer(graph, first, path)

        return __call__

    def _wrap_apply(self, apply: Any) -> Any:
        def wrapped(optimizer: Any, grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
            thread = self._thread
            grads = list(grads)
            if thread.applying or thread.is_busy:
                return apply(optimizer, grads, trainable_variables, **kwargs)
            variables = list(trainable_variables if trainable_variables is not None else _own_variables(optimizer))
            self._safely(lambda: self._captures.know(optimizer, variables), None)
            graph = graphs.current()
            thread.applying += 1
            try:
                if graph is None:
                    result = apply(optimizer, grads, trainable_variables, **kwargs)
                    self._safely(lambda: self._eager.check_update(self._ensure_recorder(), optimizer, variables), None)
                elif graphs.is_compiled(graph):
                    result = apply(optimizer, grads, trainable_variables, **kwargs)
                else:
                    if not optimizer.built and variables:
                        # Before the update is made to wait: TensorFlow runs what a variable starts with by itself.
                        seams.build_optimizer(optimizer, variables)
                    applying = self._safely(lambda: self.graph.before_apply(optimizer, grads, variables), None)
                    with tf.control_dependencies(applying.waits if applying is not None else []):
                        result = apply(optimizer, grads, trainable_variables, **kwargs)
                        if applying is not None:
                            self._safely(lambda: self.graph.after_apply(applying), None)
            finally:
                thread.applying -= 1
            return result

        return wrapped

    def _wrap_scale_loss(self, scale_loss: Any) -> Any:
        def wrapped(optimizer: Any, loss: Any) -> Any:
            scaled = scale_loss(optimizer, loss)
            self._captures.scaler = optimizer
            self.graph.on_scale_loss(loss, scaled)
            return scaled

        return wrapped

    def _wrap_fit(self, fit: Any) -> Any:
        def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._captures.fits.append({"model": model, "args": args, "kwargs": kwargs})
            try:
                return fit(model, *args, **kwargs)
            finally:
                self._captures.fits.pop()
                if not self._captures.fits:
                    self._captures.epoch = None

        return wrapped

    def _wrap_make_train_function(self, make: Any) -> Any:
        def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
            result = make(model, *args, **kwargs)
            function = model.train_function
            if function is not None and not getattr(function, "is_nanguards", False):
                model.train_function = seams.direct_train_function(model, function)
            return result

        return wrapped

    def _wrap_epoch(self, begin: Any) -> Any:
        def on_epoch_begin(callbacks: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            self._captures.epoch = int(epoch)
            self._safely(self._look_between_epochs, None)
            return begin(callbacks, epoch, *args, **kwargs)

        return on_epoch_begin

    def _wrap_epoch_end(self, end: Any) -> Any:
        def on_epoch_end(callbacks: Any, epoch: int, logs: Any = None, *args: Any, **kwargs: Any) -> Any:
            self._safely(lambda: self._note_metrics(logs or {}, epoch), None)
            return end(callbacks, epoch, logs, *args, **kwargs)

        return on_epoch_end

    def _note_metrics(self, logs: dict[str, Any], epoch: int) -> None:
        """Notes metrics that are not finite; training itself does not feel them."""
        for name, value in logs.items():
            is_noted = any(note.startswith(f"Metric {name!r} ") for note in self.watch.notes)
            if name != "loss" and not is_noted and not is_finite(value):
                text = f"Metric {name!r} is {float(value)} in epoch {epoch}; loss, gradients and weights are finite."
                self.watch.notes.append(text)

    # -- what the checks of traced steps saw

    def _look(self) -> None:
        """Turns what a check of a traced step saw into a capture."""
        sightings, self.graph.sightings = self.graph.sightings, []
        if not sightings:
            return
        real = [sighting for sighting in sightings if not sighting.is_only_scale]
        self._report(self._captures.traced((real or sightings)[0]))

    def _look_between_epochs(self) -> None:
        """Tests the weights that a callback may have written since the last step."""
        if not self._captures.fits or self._captures.num_steps(self._captures.fits[-1]["model"]) == 0:
            return
        with self._thread.ours():
            bad = [
                variable
                for variable in self._captures.fits[-1]["model"].trainable_variables
                if not math.isfinite(half_square(variable.value)) and not is_finite(variable.numpy())
            ]
            names = script_variables.named() if bad else {}
        if bad:
            self._report(self._captures.between_steps(bad, names))

    def _look_after_huge(self) -> None:
        """Tests what an update made of gradients whose square overflows."""
        sighting, self.graph.huge = self.graph.huge, None
        assert sighting is not None
        with self._thread.ours():
            now = {
                number: execution.read_variable(handle, sighting.snapshot[number].dtype)
                for number, handle in sighting.handles.items()
                if number in sighting.snapshot
            }
            worse = [
                number for number, value in now.items() if not is_finite(value) and is_finite(sighting.snapshot[number])
            ]
            names = script_variables.named() if worse else {}
        kinds = {names[number].kind for number in worse if number in names}
        if kinds & {"weight", "slot"}:
            capture = self._captures.traced(sighting)
            capture.seen_in = ("weights",) if "weight" in kinds else ("state",)
            self._report(capture)

    def _report(self, capture: Capture) -> None:
        recorder = self._thread.recorder
        with self._thread.ours():
            try:
                self.watch.on_capture(capture)
            except Exception as error:
                self._raised = error
                raise
        if recorder is not None:
            recorder.start_step()


def _own_variables(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "_trainable_variables", ()))


def _forward_of(op_name: str, inputs: Any, outputs: Any) -> Any | None:
    """The graph op whose gradient is being made: the maker of its outputs, or the consumer of its inputs."""
    for tensor in outputs or ():
        if tensor is not None and not isinstance(tensor, execution.EagerTensor):
            return tensor.op
    for tensor in inputs or ():
        if tensor is not None and not isinstance(tensor, execution.EagerTensor):
            for consumer in tensor.consumers():
                if consumer.type == op_name:
                    return consumer
    return None
