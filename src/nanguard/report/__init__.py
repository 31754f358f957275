"""What a run gave, as text for people and as JSON for programs."""

from nanguard.report._file import check_target, write
from nanguard.report._profile import cleaning_text, profile_text
from nanguard.report._report import SCHEMA_NAME, Report, Verdict, schema
from nanguard.report._text import describe, text, verdict_line

__all__ = [
    "SCHEMA_NAME",
    "Report",
    "Verdict",
    "check_target",
    "cleaning_text",
    "describe",
    "profile_text",
    "schema",
    "text",
    "verdict_line",
    "write",
]
