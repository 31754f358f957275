"""Tables written batch by batch: a file gets its name once all of it is on the disk."""

from nanguard.clean.writers._cells import cleaned_batch, schema_after
from nanguard.clean.writers._indicators import batch_with, schema_with
from nanguard.clean.writers._open import open
from nanguard.clean.writers._writer import Writer

__all__ = ["Writer", "batch_with", "cleaned_batch", "open", "schema_after", "schema_with"]
