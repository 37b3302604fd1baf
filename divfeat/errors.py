"""Errors a user can cause and mend: each message names the value, the place and the remedy."""

from __future__ import annotations


class DivfeatError(Exception):
    """Base of the errors that end a command with exit code 1 and one clear message."""


class ConfigError(DivfeatError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(DivfeatError, ValueError):
    """A data set is missing, unreadable, or not what the configuration says it is."""


class NonFiniteError(DivfeatError, ArithmeticError):
    """A loss or a gradient became NaN or infinite: the run fails, the study goes on."""
