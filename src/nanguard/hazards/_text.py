"""The catalogue as text, for the command line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from nanguard.hazards._catalogue import ALL, FAMILIES
from nanguard.hazards._hazard import Hazard

_WIDTH = 88
_LABEL_WIDTH = 12


def explain(hazard: Hazard) -> str:
    """Gives the page that `nanguard explain` prints: what the hazard is, why it bites, how to cure it."""
    blocks = [
        f"{hazard.code} {hazard.name}",
        *textwrap.wrap(hazard.summary, _WIDTH),
        "",
        *_paragraph("why", hazard.why),
        *_paragraph("needs", hazard.needs),
        *_paragraph("cure", hazard.cure),
        *_code("bad", hazard.bad),
        *_code("good", hazard.good),
        *_paragraph("cause", hazard.cause),
        *_paragraph("measured", hazard.measured),
        *(line for reference in hazard.references for line in _paragraph("see", reference)),
    ]
    return "\n".join(blocks)


def listing() -> str:
    """Gives all hazards by family, one line each."""
    return "\n\n".join("\n".join(_family(family)) for family in FAMILIES)


def _family(family: str) -> Iterator[str]:
    width = max(len(hazard.name) for hazard in ALL)
    yield family
    for hazard in sorted(FAMILIES[family], key=lambda hazard: hazard.code):
        yield f"  {hazard.code}  {hazard.name:<{width}}  {hazard.summary}"


def _paragraph(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"  {label:<{_LABEL_WIDTH - 2}}",
        subsequent_indent=" " * _LABEL_WIDTH,
        break_on_hyphens=False,
    )


def _code(label: str, code: str) -> list[str]:
    margins = [f"  {label}".ljust(_LABEL_WIDTH)] + [" " * _LABEL_WIDTH] * code.count("\n")
    return [margin + line for margin, line in zip(margins, code.splitlines(), strict=True)]
