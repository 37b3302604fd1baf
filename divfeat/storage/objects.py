"""Object stores (S3, GCS) through pyarrow: a file is one object, which a put replaces as a whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from divfeat.storage.store import Entry

#: Larger files are copied in pieces, to spare memory.
_WHOLE_BYTES = 256 * 2**20
_PIECE_BYTES = 8 * 2**20
#: Times that a file which is overwritten while it is read is read again.
_READS = 5
_THREADS = 8


class ObjectBackend:
    """Objects under a prefix of a bucket.

    Args:
        filesystem: pyarrow's.
        root: Bucket and prefix, as the file system spells them.
    """

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")

    def missing(self) -> str | None:
        """The bucket."""
        bucket = self.root.partition("/")[0]
        there = self.filesystem.get_file_info(bucket).type != fs.FileType.NotFound
        return None if there else f"there is no bucket {bucket!r}; make it first, or mend its name"

    def read(self, key: str) -> bytes | None:
        """In one request: an object that is overwritten meanwhile is read as it was, or as it is."""
        for _ in range(_READS):
            before = self.stat(key)
            if before is None:
                return None
            try:
                with self.filesystem.open_input_file(self._path(key)) as file:
                    data: bytes = file.read()
            except FileNotFoundError:  # removed, or on GCS overwritten
                continue
            # pyarrow asks for the length first, then for so many bytes: of a longer object that came between, too few.
            after = self.stat(key)
            if after is not None and len(data) == before.size == after.size:
                return data
        raise OSError(f"{key} is overwritten again and again while it is read")

    def put(self, key: str, path: Path) -> None:
        """In one write and one close: whoever is killed or interrupted leaves the old object or the new one, and what goes wrong
        in either is raised. (A stream that is closed after half a file would make the half known, and `pyarrow.fs.copy_files`
        closes without a look at whether that went well.)"""
        with self.filesystem.open_output_stream(self._path(key)) as stream:
            stream.write(_mapped(path))

    def get(self, key: str, path: Path) -> Entry | None:
        """See `Backend`."""
        for _ in range(_READS):
            before = self.stat(key)
            if before is None:
                return None
            if before.size <= _WHOLE_BYTES:
                data = self.read(key)
                if data is None:
                    return None
                path.write_bytes(data)
            else:
                self._copy(key, path)
            if self.stat(key) == before and os.path.getsize(path) == before.size:
                return before
        raise OSError(f"{key} is overwritten again and again while it is read")

    def _copy(self, key: str, path: Path) -> None:
        with self.filesystem.open_input_file(self._path(key)) as source, open(path, "wb") as file:
            while piece := source.read(_PIECE_BYTES):
                file.write(piece)

    def stat(self, key: str) -> Entry | None:
        """See `Backend`."""
        return _entry(self.filesystem.get_file_info(self._path(key)))

    def list(self, prefix: str) -> dict[str, Entry]:
        """See `Backend`."""
        top = self._path(prefix) if prefix else self.root
        found = self.filesystem.get_file_info(fs.FileSelector(top, recursive=True, allow_not_found=True))
        entries = {info.path: _entry(info) for info in found}
        return {path[len(self.root) + 1 :]: entry for path, entry in entries.items() if entry is not None}

    def delete(self, key: str) -> None:
        """See `Backend`."""
        try:
            self.filesystem.delete_file(self._path(key))
        except FileNotFoundError:
            return

    def delete_prefix(self, prefix: str) -> None:
        """Object by object: what stands for folders in an object store differs from one to the next."""
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(self.delete, self.list(prefix)))
        try:
            self.filesystem.delete_dir(self._path(prefix))  # what pyarrow leaves on S3 to stand for the folder
        except OSError:
            if self.list(prefix):
                raise

    def arrow(self, prefix: str) -> tuple[str, Any]:
        """See `Backend`."""
        return self._path(prefix) if prefix else self.root, self.filesystem

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"


def _mapped(path: Path) -> Any:
    """The bytes of a file, which need not fit into memory; an empty one cannot be mapped."""
    if not path.stat().st_size:
        return b""
    with pa.memory_map(str(path)) as source:
        return source.read_buffer()


def _entry(info: Any) -> Entry | None:
    if info.type != fs.FileType.File:
        return None
    return Entry(info.size, info.mtime_ns or 0)
