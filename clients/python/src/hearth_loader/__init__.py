"""A client of the loader of a Hearth function: runs JavaScript in a sandbox of its own."""

from .client import Limits, Line, Loader, LoaderError, Response, Result

__all__ = ["Limits", "Line", "Loader", "LoaderError", "Response", "Result"]
