"""Lets `python -m nanguard` do what `nanguard` does."""

import sys

from nanguard.cli import main

if __name__ == "__main__":
    sys.exit(main())
