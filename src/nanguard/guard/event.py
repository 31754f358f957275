"""What a guard tells of: a step that it refused, or a state that it went back from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["nonfinite", "spike", "divergence"]
Action = Literal["skip", "rollback", "raise", "none"]


@dataclass
class Event:
    """One step that was not finite, or not like the others.

    Args:
        reason: `nonfinite`; `spike`: the loss or the gradient norm jumped; `divergence`: the loss has climbed for long.
        step: Updates that the optimizer had made before.
        epoch: Epoch of `fit`, from 0; None in a loop of one's own.
        batch: Place of the batch in its epoch, from 0; None where it is not known.
        seen_in: Where it was not finite: `loss`, `gradients`, `state` (of layers), `weights` (with the optimizer's
            slots).
        loss: The loss of the batch.
        grad_norm: L2 norm of all gradients.
        corrupt: Weights, slots or layer state that were not finite before the step: no step has made them so.
        grown: Of a spike: weights whose gradient is more than three times its median over the last 32 steps, with the
            growth, largest first.
        norms: L2 norm of the gradient by weight.
        rows: Rows of the batch that are to blame; None if not known.
        incident: What the replay found, or None if there was none.
        reproduced: Whether the step failed again when it was run once more from the same state. False: the fault was
            transient (hardware, a race). None: it was not run again.
        capture: File with the failed step, for `nanguard replay`; None if none was written.
        quarantined: File with the batch, or None.
        why: What hindered the diagnosis, if something did; of a spike, why nothing was undone.
        in_row: How many steps in a row were refused, this one included.
        action: What is done; `none` for a spike that is only told.
    """

    reason: Reason
    step: int
    epoch: int | None = None
    batch: int | None = None
    seen_in: tuple[str, ...] = ()
    loss: float = 0.0
    grad_norm: float = 0.0
    corrupt: tuple[str, ...] = ()
    grown: tuple[tuple[str, float], ...] = ()
    norms: dict[str, float] = field(default_factory=dict)
    rows: tuple[int, ...] | None = None
    incident: Any = None
    reproduced: bool | None = None
    capture: str | None = None
    quarantined: str | None = None
    why: str = ""
    in_row: int = 1
    action: Action = "skip"

    def headline(self) -> str:
        """One line."""
        where = f"step {self.step}" + ("" if self.epoch is None else f" (epoch {self.epoch}, batch {self.batch})")
        if self.reason == "nonfinite":
            what = f"not finite in {' and '.join(self.seen_in) or 'an update'}"
        elif self.reason == "spike":
            what = f"a spike: loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}"
        else:
            what = f"diverging: loss {self.loss:.4g}"
        did = {"skip": "; skipped", "rollback": "; rolled back", "raise": "; stopped", "none": ""}[self.action]
        parts = [f"{where} was {what}{did}"]
        if self.corrupt:
            parts.append(f"{_listed(self.corrupt)} held NaN or Inf before it, which no step has written")
        if self.grown:
            name, growth = self.grown[0]
            parts.append(f"the gradient of {name} has grown most, {growth:.3g} times")
        if self.reason != "nonfinite" and self.why:
            parts.append(self.why)
        incident = self.incident
        if incident is not None and incident.where is not None:
            parts.append(f"{incident.cause} at {incident.where.file}:{incident.where.line}")
        elif incident is not None and incident.cause:
            parts.append(str(incident.cause))
        if self.rows:
            parts.append(f"rows {_shortened(self.rows)} of the batch")
        if self.reproduced is False:
            parts.append("not reproducible: the same step is finite when it is run again")
        return ". ".join(parts)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shortened(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows[:8]))
    return shown + (f", ... ({len(rows)} in all)" if len(rows) > 8 else "")
