"""Where the watch is attached to TensorFlow and Keras, and what each place tells it."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from nanguard.backend import execution, graphs, seams
from nanguard.backend.values import is_finite
from nanguard.capture import Capture, Forward, Named, RecordedStep, Targets, TracedStep
from nanguard.guard import source
from nanguard.guard import variables as script_variables
from nanguard.guard.compiled import CompiledWatch
from nanguard.guard.eager import Recorder, norm, numbers
from nanguard.guard.graph import GraphWatch, Sighting


class _Thread(threading.local):
    """What one thread is doing."""

    def __init__(self) -> None:
        self.is_busy = False  # nanguard itself is running ops
        self.layers: list[str] = []
        self.tapes: list[Any] = []
        self.applying = 0
        self.recorder: Recorder | None = None
        self.forward: Forward | None = None


class Hooks:
    """The attached watch.

    Args:
        watch: Where captures go.
    """

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.graph = GraphWatch()
        self.compiled = CompiledWatch(self.graph)
        self._thread = _Thread()
        self._patches: list[tuple[Any, str, Any]] = []
        self._optimizers: dict[int, tuple[Any, int]] = {}  # by id: the optimizer and its first iteration seen
        self._owner: dict[int, Any] = {}  # handle's identity -> optimizer
        self._trained: set[int] = set()
        self._bad_at_start: set[int] = set()
        self._hand_steps = 0
        self._epoch: int | None = None
        self._fits: list[dict[str, Any]] = []
        self._compiled_names: dict[bytes, bool] = {}

    # -- putting hooks in and out

    def _patch(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        original = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
        wrapper = functools.wraps(original)(wrap(original))
        self._patches.append((owner, name, original))
        setattr(owner, name, wrapper)

    def install_tensorflow(self) -> None:
        """Attaches to TensorFlow."""
        tape = tf.GradientTape
        self._patch(tape, "__enter__", self._wrap_enter)
        self._patch(tape, "__exit__", self._wrap_exit)
        self._patch(tape, "gradient", self._wrap_gradient)
        self._patch(execution.context_class(), "call_function", self._wrap_call_function)
        for name in ("assign", "assign_add", "assign_sub"):
            for kind in seams.variable_classes():
                if name in kind.__dict__:
                    self._patch(kind, name, self._wrap_assign)
        self._patch(seams.atomic_function_class(), "__init__", self._wrap_new_function)
        self._patch(seams.tracing_module(), "func_graph_from_py_func", self._wrap_trace)
        self._run_gradient = execution.gradient_function()
        execution.set_gradient_function(self._gradient_function)
        self._ensure_recorder()

    def install_keras(self) -> None:
        """Attaches to Keras."""
        if any(name == "scale_loss" for _, name, _ in self._patches):
            return
        self._patch(seams.keras_layer_class(), "__call__", self._wrap_layer)
        self._patch(seams.keras_optimizer_class(), "apply", self._wrap_apply)
        self._patch(seams.keras_loss_scale_class(), "apply", self._wrap_apply)
        self._patch(seams.keras_loss_scale_class(), "scale_loss", self._wrap_scale_loss)
        self._patch(seams.keras_trainer_class(), "fit", self._wrap_fit)
        self._patch(seams.keras_trainer_class(), "make_train_function", self._wrap_make_train_function)
        self._patch(seams.keras_callbacks_class(), "on_epoch_begin", self._wrap_epoch)
        self._patch(seams.keras_callbacks_class(), "on_epoch_end", self._wrap_epoch_end)

    def remove(self) -> None:
        """Detaches from everything."""
        for owner, name, original in reversed(self._patches):
            setattr(owner, name, original)
        if self._patches:
            execution.set_gradient_function(self._run_gradient)
        self._patches.clear()
        if self._thread.recorder is not None:
            execution.unwatch_ops(self._thread.recorder)

    def steps(self) -> int:
        """Optimizer steps made since the hooks went in."""
        made = 0
        for optimizer, first in self._optimizers.values():
            with contextlib.suppress(Exception):  # a deleted variable; the count is for the report alone
                made += max(_iterations(optimizer) - first, 0)
        return made + self._hand_steps

    def _safely(self, act: Callable[[], Any], otherwise: Any) -> Any:
        """Runs a part of the watch; an error of its own is noted, and must not stop a training that works."""
        try:
            return act()
        except Exception as error:
            note = f"A part of the training is not watched: {type(error).__name__}: {error}".split("\n")[0][:300]
            if note not in self.watch.notes:
                self.watch.notes.append(note)
            return otherwise

    # -- TensorFlow

    def _ensure_recorder(self) -> Recorder:
        thread = self._thread
        if thread.recorder is None:
            thread.recorder = Recorder(thread)
        if not execution.is_watched(thread.recorder):
            execution.watch_ops(thread.recorder)
        return thread.recorder

    def _wrap_enter(self, enter: Any) -> Any:
        def __enter__(tape: Any) -> Any:
            thread = self._thread
            if tf.executing_eagerly() and not thread.is_busy:
                recorder = self._ensure_recorder()
                if not thread.tapes:
                    if recorder.has_gradients and recorder.assigned and not recorder.is_counted:
                        self._hand_steps += 1
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
            self._safely(lambda: self._inspect([v for v in flat if script_variables.is_variable(v)]), None)
            if tf.executing_eagerly():
                recorder = self._ensure_recorder()
                recorder.is_recording = True
                result = gradient(tape, target, sources, *args, **kwargs)
                self._safely(lambda: self._check_eager(recorder, target, flat, tf.nest.flatten(result)), None)
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
                with self._ours():
                    outputs, sighting = self.compiled.call(call, context, name, inputs, num_outputs)
                if sighting is not None:
                    self._report(self._traced(sighting))
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
            if not optimizer.built and variables:
                with tf.init_scope():
                    optimizer.build(variables)
            self._safely(lambda: self._know(optimizer, variables), None)
            graph = graphs.current()
            thread.applying += 1
            try:
                if graph is None:
                    result = apply(optimizer, grads, trainable_variables, **kwargs)
                    self._safely(lambda: self._check_eager_update(optimizer, variables), None)
                elif graphs.is_compiled(graph):
                    result = apply(optimizer, grads, trainable_variables, **kwargs)
                else:
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
            self.graph.on_scale_loss(loss, scaled)
            return scaled

        return wrapped

    def _wrap_fit(self, fit: Any) -> Any:
        def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._fits.append({"model": model, "args": args, "kwargs": kwargs, "seen": 0})
            try:
                return fit(model, *args, **kwargs)
            finally:
                self._fits.pop()
                if not self._fits:
                    self._epoch = None

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
            self._epoch = int(epoch)
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

    def _know(self, optimizer: Any, variables: list[Any]) -> None:
        if id(optimizer) not in self._optimizers:
            with tf.init_scope():
                self._optimizers[id(optimizer)] = (optimizer, _iterations(optimizer))
        for variable in variables:
            for component in script_variables.components(script_variables.raw(variable)):
                self._owner[execution.identity_of(component.handle)] = optimizer

    def _inspect(self, variables: list[Any]) -> None:
        """Notes which variables are not finite before they are trained for the first time."""
        with tf.init_scope(), self._ours():
            for variable in variables:
                for component in script_variables.components(script_variables.raw(variable)):
                    number = execution.identity_of(component.handle)
                    if number in self._trained:
                        continue
                    self._trained.add(number)
                    if not is_finite(execution.read_variable(component.handle, component.dtype)):
                        self._bad_at_start.add(number)

    # -- eager steps

    def _check_eager(self, recorder: Recorder, target: Any, variables: list[Any], grads: list[Any]) -> None:
        recorder.has_gradients = True
        pairs = [(v, g) for v, g in zip(variables, grads, strict=False) if g is not None]
        with self._ours():
            losses = [t for t in tf.nest.flatten(target) if isinstance(t, execution.EagerTensor)]
            unscaled = [self.graph.unscaled(t) for t in losses]
            is_scaled = any(a is not b for a, b in zip(losses, unscaled, strict=True))
            values = [(v, g.values if isinstance(g, tf.IndexedSlices) else g) for v, g in pairs]
            loss = sum(_total(t) for t in unscaled)
            half_squares = [_half_square(g) for _, g in values]
            others = sum(_half_square(value) for _, value in recorder.assigned)
        if math.isfinite(loss + sum(half_squares) + others):
            recorder.add_history(loss, [v for v, _ in values], half_squares)
            return
        with self._ours():
            bad_loss = any(not is_finite(t) for t in unscaled)
            names = script_variables.named()
            gradients = [v for v, g in values if not is_finite(g)]
            state = [
                entry
                for entry in recorder.assigned
                if not is_finite(entry[1]) and _kind(names, entry[0]) in ("state", "weight")
            ]
        if not (bad_loss or gradients or state):
            return
        seen = (["loss"] if bad_loss else []) + (["gradients"] if gradients else []) + (["state"] if state else [])
        targets = Targets(
            [execution.identity_of(t) for t in unscaled],
            [(v, execution.identity_of(g)) for v, g in values],
            [],
            [(names[number].variable, execution.identity_of(value)) for number, value in state],
        )
        self._report(self._recorded(recorder, seen, targets, variables, names, is_scaled and seen == ["gradients"]))

    def _check_eager_update(self, optimizer: Any, variables: list[Any]) -> None:
        recorder = self._ensure_recorder()
        recorder.is_counted = True
        with self._ours():
            written = [script_variables.raw(v).read_value() for v in variables]
            if not script_variables.is_trusted(optimizer, variables):
                written += [value for _, value in recorder.assigned]
            if math.isfinite(sum(map(_half_square, written))) or all(map(is_finite, written)):
                recorder.is_recording = bool(self._thread.tapes)
                return
            names = script_variables.named()
        kinds = ("weight", "slot")
        wrong = [(n, v) for n, v in recorder.assigned if _kind(names, n) in kinds and not is_finite(v)]
        if not wrong:
            return
        targets = Targets(
            [], [], [(names[number].variable, execution.identity_of(value)) for number, value in wrong], []
        )
        self._report(self._recorded(recorder, ["weights"], targets, variables, names, False, before=1))

    def _recorded(
        self,
        recorder: Recorder,
        seen: list[Any],
        targets: Targets,
        variables: list[Any],
        names: dict[int, Named],
        is_scaled: bool,
        before: int = 0,
    ) -> Capture:
        optimizer = self._optimizer_of(variables)
        body = RecordedStep(list(recorder.events), dict(recorder.tensors))
        capture = self._capture(seen, targets, body, optimizer, names)
        capture.step = max(capture.step - before, 0)
        scale = script_variables.dynamic_scale(optimizer) if optimizer is not None else None
        if is_scaled and scale is not None:
            capture.scale = execution.identity_of(scale.handle)
        capture.history = recorder.history(
            lambda variable: self._label(names, variable), [v for v, _ in targets.gradients] or variables, capture.step
        )
        return capture

    # -- traced steps

    def _look(self) -> None:
        """Turns what a check of a traced step saw into a capture."""
        sightings, self.graph.sightings = self.graph.sightings, []
        if not sightings:
            return
        real = [sighting for sighting in sightings if not sighting.is_only_scale]
        self._report(self._traced((real or sightings)[0]))

    def _look_after_huge(self) -> None:
        """Tests what an update made of gradients whose square overflows."""
        sighting, self.graph.huge = self.graph.huge, None
        assert sighting is not None
        with self._ours():
            now = {
                number: execution.read_variable(handle, sighting.snapshot[number].dtype)
                for number, handle in sighting.handles.items()
            }
            worse = [
                number for number, value in now.items() if not is_finite(value) and is_finite(sighting.snapshot[number])
            ]
            names = script_variables.named() if worse else {}
        kinds = {_kind(names, number) for number in worse}
        if kinds & {"weight", "slot"}:
            capture = self._traced(sighting)
            capture.seen_in = ("weights",) if "weight" in kinds else ("state",)
            self._report(capture)

    def _traced(self, sighting: Sighting) -> Capture:
        check = sighting.check
        with self._ours():
            names = script_variables.named()
        seen: list[Any] = ["loss"] if sighting.has_bad_loss else []
        seen += ["gradients"] if sighting.bad_gradients else []
        bad_updates = [check.updates[place][0] for place in sighting.bad_updates]
        if bad_updates or sighting.has_bad_weights:
            seen.append("weights")
        seen += ["state"] if sighting.bad_state else []
        variables = [v for v, _ in check.gradients] or [v for v, _ in check.updates]
        written = {execution.identity_of(handle) for handle in check.written if hasattr(handle, "_id")}
        kept = {id(tensor): sighting.values[id(tensor)] for tensor in check.inputs if id(tensor) in sighting.values}
        if sighting.is_compiled:
            kept = sighting.values
        body = TracedStep(check.graph, kept, sighting.snapshot, sighting.handles, written)
        targets = Targets(
            list(check.losses),
            list(check.gradients),
            [check.updates[place] for place in sighting.bad_updates],
            [check.state[place] for place in sighting.bad_state],
        )
        optimizer = self._optimizer_of(variables)
        capture = self._capture(seen, targets, body, optimizer, names)
        if optimizer is not None:
            capture.step = _iterations_in(optimizer, sighting.snapshot, capture.step)
        else:
            capture.step = check.count()
        capture.compiled = sighting.is_compiled
        if sighting.check.is_after and optimizer is not None:
            capture.step = max(capture.step - 1, 0)
        capture.batch = [
            (tensor.name.split(":")[0], sighting.values[id(tensor)])
            for tensor in check.graph.inputs
            if id(tensor) in sighting.values
        ]
        scale = script_variables.dynamic_scale(optimizer) if optimizer is not None else None
        if sighting.is_only_scale and scale is not None:
            capture.scale = execution.identity_of(scale.handle)
        if check.ring is not None:
            labels = [self._label(names, variable) for variable in check.ring.variables]
            rows = check.ring.read()
            first = capture.step - len(rows) + 1
            capture.history = [
                (first + place, float(row[0]), dict(zip(labels, _norms(row[1:]), strict=True)))
                for place, row in enumerate(rows)
            ]
        return capture

    # -- both

    def _capture(
        self, seen: list[Any], targets: Targets, body: Any, optimizer: Any, names: dict[int, Named]
    ) -> Capture:
        with self._ours():
            step = _iterations(optimizer) if optimizer is not None else self._hand_steps
        values = body.variables if isinstance(body, TracedStep) else {}
        bad_before = [
            names[number].path
            for number, value in values.items()
            if number in names
            and names[number].kind in ("weight", "state")
            and not is_finite(value)
            and not names[number].path.startswith("nanguard")
        ]
        return Capture(
            step=step,
            epoch=self._epoch if self._fits else None,
            seen_in=tuple(seen),
            targets=targets,
            body=body,
            stack=source.stack(sys._getframe(1)),
            optimizer=optimizer,
            names=names,
            sources=[self._fits[-1]] if self._fits else [],
            bad_before=bad_before,
            trained=set(self._trained),
            bad_at_start=set(self._bad_at_start),
            before=self._thread.recorder.before() if self._thread.recorder is not None else None,
            first_step=self._optimizers.get(id(optimizer), (None, 0))[1],
        )

    def _report(self, capture: Capture) -> None:
        recorder = self._thread.recorder
        with self._ours():
            self.watch.on_capture(capture)
        if recorder is not None:
            recorder.start_step()

    def _optimizer_of(self, variables: list[Any]) -> Any:
        for variable in variables:
            for component in script_variables.components(script_variables.raw(variable)):
                owner = self._owner.get(execution.identity_of(component.handle))
                if owner is not None:
                    return owner
        return None

    @staticmethod
    def _label(names: dict[int, Named], variable: Any) -> str:
        for component in script_variables.components(script_variables.raw(variable)):
            known = names.get(execution.identity_of(component.handle))
            if known is not None:
                return known.path
        return str(getattr(variable, "name", "variable"))

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        """Around ops of nanguard's own: no hook sees them."""
        thread = self._thread
        before = thread.is_busy
        recorder = thread.recorder
        paused = recorder.is_paused if recorder is not None else False
        thread.is_busy = True
        if recorder is not None:
            recorder.is_paused = True
        try:
            yield
        finally:
            thread.is_busy = before
            if recorder is not None:
                recorder.is_paused = paused


def _iterations(optimizer: Any) -> int:
    return int(tf.convert_to_tensor(optimizer.iterations).numpy())


def _iterations_in(optimizer: Any, snapshot: dict[int, Any], otherwise: int) -> int:
    """The optimizer's iterations as they were in a snapshot; what runs beside a failed step may have moved on."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variable = script_variables.raw(getattr(inner, "_iterations", None))
    for component in script_variables.components(variable):
        value = snapshot.get(execution.identity_of(component.handle))
        if value is not None:
            return int(value) // int(getattr(inner, "gradient_accumulation_steps", None) or 1)
    return otherwise


def _own_variables(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(inner, "_trainable_variables", ()))


def _kind(names: dict[int, Named], number: int) -> str:
    return names[number].kind if number in names else "other"


def _norms(half_squares: Any) -> list[float]:
    return [norm(float(value)) for value in half_squares]


def _total(tensor: Any) -> float:
    numbers_of = tensor.numpy()
    return float(numbers_of if numbers_of.ndim == 0 else numbers_of.sum())


def _half_square(tensor: Any) -> float:
    """Half the sum of squares; NaN or Inf if a number is, or if a square overflows."""
    if tensor.dtype in (tf.float32, tf.float64):
        return float(execution.half_square(tensor))
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return 0.0
    return 0.0 if is_finite(tensor) else math.nan


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
