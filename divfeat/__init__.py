"""divfeat: studies of feature diversity. See README.md and docs/.

`divfeat.study(...)` runs a study from Python, `divfeat.open_study(folder)` opens one. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divfeat.errors import ConfigError, DataError, DivfeatError
    from divfeat.notebook.calls import study
    from divfeat.notebook.result import StudyResult, Winner, open_study
    from divfeat.search.interrupt import StoppedError, TooManyFailuresError
    from divfeat.search.plan import Plan

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "DataError",
    "DivfeatError",
    "Plan",
    "StoppedError",
    "StudyResult",
    "TooManyFailuresError",
    "Winner",
    "open_study",
    "study",
]

#: Name -> module that has it.
_PLACES = {
    "ConfigError": "divfeat.errors",
    "DataError": "divfeat.errors",
    "DivfeatError": "divfeat.errors",
    "Plan": "divfeat.search.plan",
    "StoppedError": "divfeat.search.interrupt",
    "StudyResult": "divfeat.notebook.result",
    "TooManyFailuresError": "divfeat.search.interrupt",
    "Winner": "divfeat.notebook.result",
    "open_study": "divfeat.notebook.result",
    "study": "divfeat.notebook.calls",
}


def __getattr__(name: str) -> Any:
    """Import what is named in `__all__` on its first use."""
    if name not in _PLACES:
        raise AttributeError(f"module 'divfeat' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
