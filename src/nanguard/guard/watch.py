"""The watch as a script sees it: nothing, until TensorFlow is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


class Watch:
    """Watches the training of a script that was not changed.

    Args:
        on_capture: Called with a `nanguard.capture.Capture` at each step that is not finite, on the thread that
            trains, after the step was stopped and before its variables change. It may raise, which ends the script;
            otherwise it says whether this was an incident: False lets the watch forget it (an ordinary overflow of
            scaled gradients).
    """

    def __init__(self, on_capture: Callable[[Any], bool]) -> None:
        self.on_capture = on_capture
        self.notes: list[str] = []
        self.problem: str | None = None
        self._hooks: Any = None
        self._finder = _AfterImport({"tensorflow": self._on_tensorflow, "keras": self._on_keras})

    @property
    def steps(self) -> int:
        """Optimizer steps that were made under the watch."""
        return 0 if self._hooks is None else int(self._hooks.steps())

    def arm(self) -> None:
        """Waits for the script to import TensorFlow and Keras, and puts the hooks in when it does."""
        for name, then in self._finder.then.items():
            if name in sys.modules:
                then()
        sys.meta_path.insert(0, self._finder)

    def disarm(self) -> None:
        """Takes all hooks out again."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        if self._hooks is not None:
            self._hooks.remove()

    def _on_tensorflow(self) -> None:
        if self._hooks is not None or self.problem:
            return
        try:
            from nanguard.guard.hooks import Hooks

            self._hooks = Hooks(self)
            self._hooks.install_tensorflow()
        except (ImportError, AttributeError) as error:
            version = getattr(sys.modules.get("tensorflow"), "__version__", "unknown")
            self.problem = f"This TensorFlow ({version}) cannot be watched: {error}. nanguard supports 2.18 to 2.21."

    def _on_keras(self) -> None:
        backend = sys.modules["keras"].config.backend()
        if backend != "tensorflow":
            self.problem = f"Keras runs on the {backend} backend; nanguard watches the tensorflow backend alone."
            return
        self._on_tensorflow()
        if self._hooks is not None and not self.problem:
            self._hooks.install_keras()


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function right after a module was imported for the first time."""

    def __init__(self, then: dict[str, Callable[[], None]]) -> None:
        self.then = then
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds the module as Python would, with a loader that calls back."""
        if fullname not in self.then or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking.discard(fullname)
        if spec is not None and spec.loader is not None:
            loader, then = spec.loader, self.then[fullname]
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                then()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
