"""Writes the reference pages of ops and losses from their docstrings; `--check` says whether they are up to date."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nanguard import losses, ops
from nanguard.ops import OPS

DOCS = Path(__file__).parent.parent / "docs"
NOTICE = "<!-- Written by tools/reference.py from the docstrings. -->"


def summary(public: object) -> str:
    """Gives the first sentence of a docstring, which is its first paragraph, in one line."""
    return " ".join((inspect.getdoc(public) or "").partition("\n\n")[0].split())


def signature(public: object) -> str:
    """Gives the arguments without their types."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(public).parameters.values()  # type: ignore[arg-type]
    ]
    # A function among the defaults would be written with its address.
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", str(inspect.Signature(parameters)))


def ops_page() -> Iterator[str]:
    """Gives the lines of docs/ops.md: each op with what it is written in the place of and what it cures."""
    yield from (
        "# The ops",
        "",
        NOTICE,
        "",
        "`import nanguard as ng`, then `ng.ops.log(x)` in the place of `tf.math.log(x)`. Every op takes tensors,",
        "arrays, lists and the symbolic tensors of a Keras model, and is documented in full by `help(ng.ops.log)`.",
        "What they promise and how it is shown: [verification](verification.md).",
    )
    for name, record in sorted(OPS.items()):
        yield from ("", f"## `{name}{signature(record.function)}`", "", summary(record.function), "")
        if record.replaces:
            yield f"- in the place of: {', '.join(f'`{peer}`' for peer in record.replaces)}"
        yield f"- cures: {', '.join(f'{hazard.code} {hazard.name}' for hazard in record.cures)}"
        others = sorted(other for other in vars(ops) if getattr(ops, other) is record.function and other != name)
        if others:
            yield f"- also called: {', '.join(f'`{other}`' for other in others)}"


def losses_page() -> Iterator[str]:
    """Gives the lines of docs/losses.md: each loss, as a class and as a function."""
    yield from (
        "# The losses",
        "",
        NOTICE,
        "",
        "`ng.losses.BinaryCrossentropy()` in the place of `keras.losses.BinaryCrossentropy()`; all that Keras has is",
        "there under the same name with the same arguments, and more. A sample of weight 0, or one that is masked,",
        "takes no part, not even if it is NaN. Each is documented in full by `help(ng.losses.BinaryCrossentropy)`.",
    )
    classes = {name: part for name, part in vars(losses).items() if inspect.isclass(part) and name[0].isupper()}
    functions = {name: part for name, part in vars(losses).items() if inspect.isfunction(part) and name[0] != "_"}
    for title, parts in (("Classes", classes), ("Functions", functions)):
        yield from ("", f"## {title}")
        for name, part in sorted(parts.items()):
            yield from ("", f"### `{name}{signature(part)}`", "", summary(part))


PAGES = {"ops.md": ops_page, "losses.md": losses_page}


def main() -> int:
    """Writes the pages, or with `--check` compares them, and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    arguments = parser.parse_args()
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, "\n".join(page()) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not arguments.check:
                path.write_text(text, encoding="utf-8")
    if arguments.check and stale:
        print(f"Out of date: {', '.join(stale)}. Write them anew with `make reference`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
