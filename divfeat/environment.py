"""Environment variables that other packages read, set for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables within the block, where the user has not; puts them back."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
