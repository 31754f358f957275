"""Tables of any kind, read block by block: arrays, frames, data sets and files."""

from nanguard.clean.sources._open import open
from nanguard.clean.sources._parts import Part, parts
from nanguard.clean.sources._source import BATCH_ROWS, Source

__all__ = ["BATCH_ROWS", "Part", "Source", "open", "parts"]
