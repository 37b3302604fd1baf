"""Tracking: the study as MLflow shows it, a projection of the ledger that only the driver writes (design section 7)."""

from __future__ import annotations

import os

# Before MLflow is imported, since it starts its telemetry on import. Who has set either variable keeps their choice.
if "DO_NOT_TRACK" not in os.environ:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from divfeat.tracking.tracker import Tracker

__all__ = ["Tracker"]
