"""`nanguard scan` and `nanguard clean`: a data set, told of and repaired."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from typing import Any

from nanguard import report
from nanguard.errors import UsageError


def scan(options: argparse.Namespace) -> int:
    """Prints what would harm a training; gives 1 if there is something, 0 if not."""
    _need_extra()
    if options.json is not None:
        report.check_target(options.json, force=options.force)
    from nanguard.clean import cleaning
    from nanguard.cli._progress import Shown

    found = cleaning.scan(
        _path(options.data, "scan"),
        columns=_names(options.columns),
        label=options.label,
        options=_options(options),
        engine=_engine(options),
        memory=options.memory,
        watch=Shown,
        reading=_reading(options),
    )
    if options.json is not None:
        report.write(found, options.json)
    with contextlib.suppress(BrokenPipeError):  # a reader such as `head` may be gone
        print(report.profile_text(found), end="", flush=True)
    return 1 if found.hazards else 0


def clean(options: argparse.Namespace) -> int:
    """Writes the cleaned rows, and tells what was done."""
    _need_extra()
    for path, what in ((options.save, "the cleaner"), (options.json, "the report")):
        if path is not None:
            report.check_target(path, force=options.force, what=what)
    if options.restore:
        return _restore(options)
    if options.save is not None and importlib.util.find_spec("tensorflow") is None:
        raise UsageError("--save makes a Keras layer, and TensorFlow is not installed: pip install 'nanguard[tf-cpu]'.")
    from nanguard.clean import cleaning
    from nanguard.cli._progress import Shown

    done = cleaning.clean(
        _path(options.data, "clean"),
        options.output,
        set_aside=options.quarantine,
        columns=_names(options.columns),
        label=options.label,
        options=_options(options),
        categories=options.categories,
        force=options.force,
        engine=_engine(options),
        memory=options.memory,
        watch=Shown,
        reading=_reading(options),
    )
    if options.save is not None:
        from nanguard.clean.layer import save

        save(done.recipe, options.save)
    if options.json is not None:
        report.write(done, options.json)
    print(report.cleaning_text(done, options.output, options.quarantine, options.save), end="")
    return 0


def _restore(options: argparse.Namespace) -> int:
    if options.quarantine is None:
        raise UsageError("--restore needs the file of the rows that were set aside: --quarantine FILE.")
    from nanguard.clean import quarantine

    number = quarantine.restore(_path(options.data, "clean"), options.quarantine, options.output, force=options.force)
    print(f"{options.output}: {number:,} rows, in their old order, those from {options.quarantine} as they were read.")
    return 0


def _need_extra() -> None:
    for name in ("numpy", "pyarrow", "narwhals", "sklearn", "tqdm"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{name} is not installed, which reading data needs: pip install 'nanguard[data]'.")


def _path(paths: list[str], command: str) -> str:
    if len(paths) > 1:
        raise UsageError(
            f"one file, folder or pattern at a time. The shell has made {len(paths)} of yours: quote it, as in "
            f"nanguard {command} '*.csv'."
        )
    return paths[0]


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """How a CSV file is to be read."""
    dtypes = dict(each.partition("=")[::2] for each in options.dtype or [])
    for name, kind in dtypes.items():
        if not kind:
            raise UsageError(f"--dtype takes COLUMN=TYPE, such as code=string. Received: {name}.")
    return {"dtypes": dtypes, "delimiter": options.delimiter, "encoding": options.encoding}


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",")]


def _options(given: argparse.Namespace) -> Any:
    from nanguard.clean.options import Options

    chosen: dict[str, Any] = {
        name: getattr(given, name, None)
        for name in ("impute", "outliers", "bounds", "threshold", "window", "fill_value", "group", "indicators")
    }
    chosen = {name: None if value == "none" else value for name, value in chosen.items() if value is not None}
    try:
        return Options(**chosen, sentinels=_sentinels(given.sentinel or []))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _sentinels(given: list[str]) -> Any:
    """Numbers for all columns, or `COLUMN=NUMBER` for one."""
    by_column: dict[str, list[float]] = {}
    for each in given:
        name, _, number = each.rpartition("=")
        name = name or "*"
        try:
            by_column.setdefault(name, []).append(float(number))
        except ValueError:
            raise UsageError(f"--sentinel takes a number, or COLUMN=NUMBER. Received: {each}.") from None
    return {name: tuple(numbers) for name, numbers in by_column.items()}


def _engine(options: argparse.Namespace) -> Any:
    if options.engine != "dask" and options.scheduler is not None:
        raise UsageError("--scheduler is the address of a Dask cluster: add --engine dask.")
    if options.engine != "beam" and options.beam:
        raise UsageError("--beam is an option of a Beam pipeline: add --engine beam.")
    if options.engine == "dask":
        return _dask(options.scheduler)
    return _beam(options.beam or []) if options.engine == "beam" else None


def _dask(scheduler: str | None) -> Any:
    for name in ("dask", "distributed"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{name} is not installed: pip install 'nanguard[dask]'.")
    from nanguard.clean.engines import DaskEngine

    print(f"nanguard: on {scheduler or 'a cluster of this machine'}", file=sys.stderr)
    return DaskEngine(scheduler)


def _beam(given: list[str]) -> Any:
    if importlib.util.find_spec("apache_beam") is None:
        raise UsageError(
            "apache_beam is not installed. New TensorFlow conflicts with it: in an environment of its own, "
            "pip install 'nanguard[data,beam]'."
        )
    from nanguard.clean.engines import BeamEngine

    options: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise UsageError(f"--beam takes OPTION=X, such as runner=FlinkRunner. Received: {each}.")
        options[name] = value
    print(f"nanguard: on {options.get('runner', 'processes of this machine')}", file=sys.stderr)
    return BeamEngine(options or None)
