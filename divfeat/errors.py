"""Errors a user can cause and mend: each message names the value, the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DivfeatError(Exception):
    """Base of the errors that end a command with exit code 1 and one clear message."""


class ConfigError(DivfeatError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(DivfeatError, ValueError):
    """A data set is missing, unreadable, or not what the configuration says it is."""


class NonFiniteError(DivfeatError, ArithmeticError):
    """A loss or a gradient became NaN or infinite: the run fails, the study goes on."""


def unknown(kind: str, name: str, known: Iterable[str], prefix: str = "", elsewhere: str = "") -> str:
    """Message for a name that is not among `known`, with the closest one, or else with where there is one `elsewhere`."""
    known = list(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    meant = (prefix + "." if prefix else "") + close[0] if close else elsewhere
    hint = f" Did you mean {meant!r}?" if meant else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}"
