"""The version of tagger."""

__version__ = "0.1.0"
