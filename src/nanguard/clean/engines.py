"""Surveys of tables that one process is too slow for: the same object, filled by the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

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
        reader: Any = source.blocks()
        with contextlib.closing(reader) as blocks:
            pilot = Survey.pilot(source.schema, next(blocks), options, with_products=with_products)
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
    counts = [piece.source.num_rows for piece in pieces]
    if any(count is None for count in counts):
        counts = client.gather(client.map(_num_rows, pieces, pure=False))
    first_row, level = 0, []
    shared = client.scatter(pilot, broadcast=True)
    for piece, count in zip(pieces, counts, strict=True):
        level.append(client.submit(_learn, piece, first_row, shared, pure=False))
        first_row += count or 0
    while len(level) > 1:
        merged = [client.submit(_merge, *pair, pure=False) for pair in zip(level[::2], level[1::2], strict=False)]
        level = merged + level[len(level) - len(level) % 2 :]
    found: Survey = level[0].result()
    return found


def _num_rows(piece: Part) -> int:
    return sum(len(block) for block in piece.source.blocks())


def _learn(piece: Part, first_row: int, pilot: Survey) -> Survey:
    from threadpoolctl import threadpool_limits

    found = pilot.empty()
    with threadpool_limits(1):
        for block in piece.source.blocks():
            found.update(piece.placed(block, first_row))
    return found


def _merge(one: Survey, other: Survey) -> Survey:
    # Dask may hand the same object to another task: it is not to be changed.
    total = one.empty()
    total.merge(one)
    total.merge(other)
    return total
