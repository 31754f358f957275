"""A failed step as a file, which replays elsewhere without the script, the data set or the model's code."""

from nanguard.capture_file._file import About, load, save

__all__ = ["About", "load", "save"]
