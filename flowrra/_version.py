"""The one place where the version of both packages stands."""

__version__ = "0.2.0"
