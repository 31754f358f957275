"""The engine for Apache Beam: Dataflow, Flink, Spark, or processes of this machine."""

from __future__ import annotations

import os
import pickle
import tempfile
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nanguard.clean.engines import _merging
from nanguard.clean.options import Options
from nanguard.clean.sources import Part, Source, parts
from nanguard.clean.survey import Survey
from nanguard.errors import UsageError

# How many surveys a worker merges at a time: a power of two, see `_merging.in_pairs`.
_FAN_IN = 16
_LOCAL = {"runner": "DirectRunner", "direct_running_mode": "multi_processing"}


class BeamEngine:
    """Learns from a table in an Apache Beam pipeline.

    The same parts are surveyed and merged in the same pairs as by `DaskEngine`, so that the two give the same result
    on every runner. Workers need the files under the same paths, and nanguard. The result comes back as a file in the
    pipeline's `temp_location`, which this process must be able to read.

    Beam's own requirements conflict with those of new TensorFlow: it takes an environment of its own. Scanning and
    learning need no TensorFlow.

    Args:
        options: The pipeline's options by name, such as `{"runner": "FlinkRunner", "flink_master": "host:8081"}`, or
            a `PipelineOptions`. Where they name no runner, processes of this machine do the work, one for each core.
    """

    def __init__(self, options: Mapping[str, Any] | Any = None) -> None:
        self.options = options

    def survey(self, source: Source, options: Options, *, with_products: bool) -> Survey:
        """Surveys a table.

        Args:
            source: Files; what lives in this process's memory is no work for a pipeline.
            options: What stands for a missing cell.
            with_products: Whether sums of products of columns are kept.

        Raises:
            UsageError: If the source cannot be cut into parts, or the pipeline fails.
        """
        pieces = parts(source)
        pilot = _merging.pilot(source, options, with_products=with_products)
        pipeline_options = self._pipeline_options()
        location = pipeline_options.get_all_options().get("temp_location")
        with tempfile.TemporaryDirectory(prefix="nanguard-") as folder:
            target = "/".join((location or folder, f"survey-{uuid.uuid4().hex}.pickle"))
            try:
                _run(pipeline_options, pieces, pilot, target)
                return _taken(target)
            except (RuntimeError, OSError) as error:
                raise UsageError(f"The Beam pipeline failed: {_last_line(error)}") from error

    def _pipeline_options(self) -> Any:
        beam: Any = import_module("apache_beam.options.pipeline_options")
        if isinstance(self.options, beam.PipelineOptions):
            return self.options
        given = dict(self.options or {})
        local = {} if "runner" in given else {"direct_num_workers": os.cpu_count(), **_LOCAL}
        return beam.PipelineOptions.from_dictionary({**local, **given})


def _run(pipeline_options: Any, pieces: list[Part], pilot: Survey, target: str) -> None:
    beam: Any = import_module("apache_beam")
    with beam.Pipeline(options=pipeline_options) as pipeline:
        placed = pipeline | "Parts" >> beam.Create(list(enumerate(pieces)), reshuffle=True)
        counts = placed | "Count rows" >> beam.Map(_counted)
        surveys = placed | "Learn" >> beam.Map(_learnt, pilot, beam.pvalue.AsDict(counts))
        remaining = len(pieces)
        while remaining > 1:
            surveys = (
                surveys
                | f"Neighbours of {remaining}" >> beam.Map(_with_run)
                | f"Group {remaining}" >> beam.GroupByKey()
                | f"Merge {remaining}" >> beam.Map(_merged)
            )
            remaining = -(-remaining // _FAN_IN)
        _ = surveys | "Write" >> beam.Map(_write, target)


# What goes through the pipeline are pairs of a place in the table and a part, a count or a survey.


def _counted(placed: Any) -> Any:
    place, piece = placed
    known = piece.source.num_rows
    return place, _merging.num_rows(piece) if known is None else known


def _learnt(placed: Any, pilot: Survey, counts: Any) -> Any:
    place, piece = placed
    return place, _merging.learn(piece, sum(counts[before] for before in range(place)), pilot)


def _with_run(placed: Any) -> Any:
    return placed[0] // _FAN_IN, placed


def _merged(run: Any) -> Any:
    number, placed = run
    surveys = [survey for _, survey in sorted(placed, key=lambda pair: pair[0])]
    return number, _merging.in_pairs(surveys, _merging.merge)


def _write(placed: Any, target: str) -> None:
    """Writes the result under another name first: a runner may do a step twice, and lose a worker in the middle."""
    files: Any = import_module("apache_beam.io.filesystems").FileSystems
    unfinished = f"{target}.{uuid.uuid4().hex}"
    with files.create(unfinished) as file:
        file.write(pickle.dumps(placed[1]))
    files.rename([unfinished], [target])


def _taken(target: str) -> Survey:
    files: Any = import_module("apache_beam.io.filesystems").FileSystems
    with files.open(target) as file:
        found: Survey = pickle.loads(file.read())
    files.delete([target])
    return found


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
