"""The watch over training: sees the first step that is not finite, stops it, and leaves a capture of it."""

from nanguard.guard.watch import Watch

__all__ = ["Watch"]
