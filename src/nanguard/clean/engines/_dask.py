"""The engine for a Dask cluster."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from nanguard.clean.engines import _merging
from nanguard.clean.options import Options
from nanguard.clean.sources import Part, Source, parts
from nanguard.clean.survey import Survey
from nanguard.errors import UsageError


class DaskEngine:
    """Learns from a table on a Dask cluster.

    Each worker surveys whole files, or row groups of Parquet files, and the surveys are merged two by two in an order
    that does not depend on who is done first: the result is the same on any cluster, and the same after a worker was
    lost, whose parts Dask runs again elsewhere. It is that of one process, up to the rounding of sums. Workers need the
    files under the same paths, and nanguard.

    Args:
        scheduler: The address of the cluster's scheduler, such as `tcp://host:8786`. Without one, a cluster of
            processes is started on this machine and ends with the survey.
        num_workers: How many processes that cluster has; one for each core if left out.
    """

    def __init__(self, scheduler: str | None = None, *, num_workers: int | None = None) -> None:
        self.scheduler = scheduler
        self.num_workers = num_workers

    def survey(self, source: Source, options: Options, *, with_products: bool) -> Survey:
        """Surveys a table.

        Args:
            source: Files; what lives in this process's memory is no work for a cluster.
            options: What stands for a missing cell.
            with_products: Whether sums of products of columns are kept.

        Raises:
            UsageError: If the source cannot be cut into parts, the scheduler is not there, or a file cannot be read.
        """
        distributed: Any = import_module("distributed")

        pieces = parts(source)
        pilot = _merging.pilot(source, options, with_products=with_products)
        if self.scheduler is not None:
            try:
                client = distributed.Client(self.scheduler, timeout=10, set_as_default=False)
            except OSError as error:
                raise UsageError(f"No Dask scheduler answers at {self.scheduler}. Is it running? {error}") from None
            with client:
                return _run(client, pieces, pilot)
        cluster = distributed.LocalCluster(n_workers=self.num_workers, threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster, set_as_default=False) as client:
            return _run(client, pieces, pilot)


def _run(client: Any, pieces: list[Part], pilot: Survey) -> Survey:
    submit = functools.partial(client.submit, pure=False)
    counts = [piece.source.num_rows for piece in pieces]
    if any(count is None for count in counts):
        counts = client.gather(client.map(_merging.num_rows, pieces, pure=False))
    first_row, learnt = 0, []
    shared = client.scatter(pilot, broadcast=True)
    for piece, count in zip(pieces, counts, strict=True):
        learnt.append(submit(_merging.learn, piece, first_row, shared))
        first_row += count or 0
    found: Survey = _merging.in_pairs(learnt, functools.partial(submit, _merging.merge)).result()
    return found
