"""The data that is to blame: rows and columns of the batch, rows of the data set, and the op that spoilt them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nanguard import hazards
from nanguard.backend.values import array
from nanguard.capture import Capture, Event
from nanguard.findings import Cure, Incident, Operand
from nanguard.replay import dataset, divergence, operands, origin, preprocessing, rows, story
from nanguard.replay.births import Birth
from nanguard.replay.dependence import Dependence
from nanguard.replay.diagnosis import Diagnosis, Doctor
from nanguard.replay.program import Program

_MOST_COLUMNS = 4096


class Culprits:
    """Finds them for one step.

    Args:
        capture: The failed step.
        program: The same, replayed.
        batch: Its data row by row, or None for a call, which has none.
        dependence: What depends on the data.
    """

    def __init__(self, capture: Capture, program: Program, batch: rows.Batch | None, dependence: Dependence) -> None:
        self._capture = capture
        self._program = program
        self._batch = batch
        self._dependence = dependence

    def add_to(self, incident: Incident, birth: Birth, diagnosis: Diagnosis, targets: list[int]) -> None:
        """Adds the rows and columns that are to blame to an incident.

        Args:
            incident: What they are added to.
            birth: Where the incident was born.
            diagnosis: Why.
            targets: Numbers of the tensors that are finite without the rows to blame.
        """
        batch = self._batch
        if batch is None:
            return
        if diagnosis.born_in == "update" and diagnosis.hazard is not hazards.CLIPPING_SPREADS_NAN:
            return
        suspects = self._suspects(batch, birth, diagnosis)
        proof = rows.Proof(self._program, batch, targets)
        found = proof.culprits(suspects)
        if found is None and batch.size == 1 and birth.leaf is not None:
            found = [0]
        if found is None:
            if birth.leaf is not None and diagnosis.hazard is hazards.PREPROCESSING_MADE_NONFINITE:
                leaf = batch.entry(birth.leaf)
                incident.columns = self._columns(batch, leaf[0], list(range(batch.size))) if leaf is not None else None
            return
        incident.rows = tuple(found)
        incident.dataset_rows = self.dataset_rows(found)
        entry = batch.entry(birth.leaf) if birth.leaf is not None else None
        if entry is not None and diagnosis.hazard is not hazards.MISSING_LABELS:
            incident.columns = self._columns(batch, entry[0], found)
        elif diagnosis.hazard in (hazards.OUTLIER_ROWS, hazards.BATCHNORM_POISONED):
            incident.columns = self._outlying_columns(batch, found)

    def bad_labels(self, event: Event) -> tuple[int, ...]:
        """Gives the rows of the batch with a label outside of the classes.

        Args:
            event: An op that takes logits and labels.
        """
        logits, labels = (self._program.values[number] for number in event.inputs[:2])
        values = array(labels)
        size = int(logits.shape[-1]) if event.op.startswith("Sparse") else int(logits.shape[0] or 0)
        flat = np.flatnonzero(((values < 0) | (values >= size)).reshape(-1))
        if not flat.size or self._batch is None:
            return ()
        per_row = max(values.size // self._batch.size, 1)
        return tuple(sorted({int(place) // per_row for place in flat}))

    def dataset_rows(self, found: list[int]) -> tuple[int, ...] | None:
        """Gives the rows of the data set that these rows of the batch are, or None where that is not known."""
        if self._batch is None:
            return None
        known = self._capture.answers.dataset_rows
        if self._capture.is_stored:
            places = {row: place for pair in known.items() for row, place in zip(pair[0], pair[1] or (), strict=False)}
            return tuple(places[row] for row in found) if all(row in places for row in found) else None
        arrays = [self._batch.array(entry) for entry in self._batch.entries]
        sources = [value for fit in self._capture.sources for value in (fit["args"], fit["kwargs"])]
        result = dataset.rows(arrays, found, sources)
        known[tuple(found)] = tuple(result) if result is not None else None
        return known[tuple(found)]

    def named(self, received: tuple[Operand, ...], birth: Birth) -> tuple[Operand, ...]:
        """Gives the operand of an incident born in the data by what it is: "features" or "labels".

        Args:
            received: The operands.
            birth: Where the incident was born.
        """
        entry = self._batch.entry(birth.leaf) if self._batch is not None and birth.leaf is not None else None
        if entry is None or not received:
            return received
        is_label = self._dependence.is_label(entry[0].parts[0])
        return (replace(received[0], name="labels" if is_label else "features"),)

    def trace_preprocessing(self, incident: Incident) -> None:
        """Looks for the op that made the bad data, and tells it instead of the line that handed the data on.

        Args:
            incident: An incident born in the data; changed.
        """
        batch = self._batch
        bad_row = None
        if batch is not None and incident.rows:
            values = array(batch.array(batch.entries[0]))
            bad_row = values[incident.rows[0]] if not np.isfinite(values[incident.rows[0]]).all() else None
        made = preprocessing.find(self._capture, bad_row, len(incident.rows or (0,)))
        if made is None or made.birth.event is None:
            return
        event = made.birth.event
        place = origin.of_event(event)
        line = place.users_line()
        if line is None:
            return
        hazard = hazards.PREPROCESSING_MADE_NONFINITE
        struck = Doctor(self._capture, made.program, Dependence(made.program, ()), []).strike(event)
        incident.op = place.op
        incident.where = origin.where(line)
        incident.hazard, incident.hazard_name, incident.cause = hazard.code, hazard.name, hazard.cause
        incident.cure, incident.needs = Cure(hazard.cure), hazard.needs
        incident.operands = operands.of_op(made.program, event.op, event.inputs, struck, line)
        incident.chain = story.shortened((*(each.op for each in made.birth.chain), *incident.chain))
        if made.rows is not None and incident.rows is not None and incident.dataset_rows is None:
            incident.dataset_rows = made.rows

    def _suspects(self, batch: rows.Batch, birth: Birth, diagnosis: Diagnosis) -> list[int]:
        if birth.leaf is not None:
            entry = batch.entry(birth.leaf)
            if entry is not None and diagnosis.struck is not None:
                bad = {row for row in range(batch.size) for each in batch.entries
                       if not np.isfinite(array(batch.array(each))[row]).all()}  # fmt: skip
                return sorted(bad)
        if diagnosis.hazard in (hazards.OUTLIER_ROWS, hazards.BATCHNORM_POISONED):
            return sorted({int(row) for each in batch.entries
                           for row in divergence.outlier_rows(array(batch.array(each)))})  # fmt: skip
        struck = diagnosis.struck
        if struck is None or not struck.rows:
            return []
        number = struck.numbers[struck.operand]
        if number is None or number not in self._program.values:
            return []
        length = int(self._program.values[number].shape[0]) if self._program.values[number].shape.rank else 0
        if length and length % batch.size == 0:
            return sorted({row // (length // batch.size) for row in struck.rows})
        return []

    def _columns(self, batch: rows.Batch, entry: rows.Entry, found: list[int]) -> tuple[int, ...] | None:
        values = array(batch.array(entry))
        if values.ndim < 2:
            features = [each for each in batch.entries if not self._dependence.is_label(each.parts[0])]
            return (features.index(entry),) if entry in features and len(features) > 1 else (0,)
        if values.shape[-1] > _MOST_COLUMNS:
            return None
        bad = ~np.isfinite(values[found])
        places = np.flatnonzero(bad.reshape(-1, values.shape[-1]).any(axis=0))
        return tuple(int(place) for place in places) or None

    def _outlying_columns(self, batch: rows.Batch, found: list[int]) -> tuple[int, ...] | None:
        """Columns of the features in which the rows found lie beyond all others."""
        for entry in batch.entries:
            values = array(batch.array(entry))
            if values.ndim != 2 or self._dependence.is_label(entry.parts[0]):
                continue
            places = divergence.outlying(values)[found].any(axis=0)
            if places.any():
                return tuple(int(place) for place in np.flatnonzero(places))
        return None
