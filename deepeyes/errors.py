"""Errors that a user sees. Each message says what was found, what was expected and how to mend it."""

from __future__ import annotations


class SettingsError(ValueError):
    """A setting has a value that is not allowed; the message names it, its value and what is allowed."""


class DataError(ValueError):
    """A dataset row lacks what a reward needs; the message names the column and how to mend it."""


class DataFileError(Exception):
    """A file or folder of rows can't be read, checked or written; the message says why and how to mend it."""


class JudgeError(RuntimeError):
    """The judge refused a request or could not be reached; training must not go on with made-up rewards."""
