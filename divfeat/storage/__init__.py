"""Shared storage of studies: a folder that all nodes have mounted, S3, GCS."""

from divfeat.storage.mounts import network_filesystem
from divfeat.storage.opening import is_uri, open_store, parse, reopen
from divfeat.storage.store import PATIENCE_SECONDS, Entry, Store

__all__ = ["PATIENCE_SECONDS", "Entry", "Store", "is_uri", "network_filesystem", "open_store", "parse", "reopen"]
