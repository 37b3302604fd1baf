"""``parquet:PATH``: the Hugging Face layout, as a hub export has it.

An image column of struct {bytes, path}, integer label columns, class names in the schema metadata under the key
``huggingface``; shards named or foldered by split.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from divfeat.data.decode import decode_images
from divfeat.data.images import ImageSet
from divfeat.data.sources.request import Request
from divfeat.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_NAMES, _FINE_NAMES, _COARSE_NAMES = ("img", "image"), ("fine_label", "label"), ("coarse_label",)
_SPLIT = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev)(?![a-z])")
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)$")


def load(request: Request) -> ImageSet:
    """Load the shards of a split, in name order. ``validation`` shards are the test split only where there is no test.

    Without class names in the metadata a class is named by its number; the training labels say how many there are.

    Raises:
        DataError: no such path, no shard of the split or one missing, no image or label column, null or out-of-range
            labels, an image that is missing or corrupt, or mixed sizes without ``image_size``. Labels are checked
            before any image is decoded.
    """
    import pyarrow.compute as pc
    from PIL import Image

    shards = _shards(request)
    files = shards[request.split]
    columns = _columns(files[0], _schema(files[0]), request)
    tables = [_read(file, columns) for file in files]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    if not starts[-1]:
        raise DataError(f"{request.spec!r}: the {request.split} split in {files[0].parent} has no rows")
    labels: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    for role in ("fine", "coarse"):
        if column := columns.get(role):
            labels[role] = _labels(files, tables, column)
            names[role] = _class_names(files, column) or _numbers(shards["train"] or files, column)
            _check_range(files, tables, column, len(names[role]))
    blobs = [pc.struct_field(table.column(columns["image"]), "bytes") for table in tables]

    def place(i: int) -> tuple[int, int]:
        shard = int(np.searchsorted(starts, i, side="right")) - 1
        return shard, int(i - starts[shard])

    def where(i: int) -> str:
        shard, row = place(i)
        return f"row {row} of {files[shard]}"

    def open_image(i: int) -> Image.Image:
        shard, row = place(i)
        data = blobs[shard][row].as_py()
        if data is None:
            raise DataError(f"{where(i)} has no image bytes: export the set with its images embedded")
        return Image.open(io.BytesIO(data))

    images = decode_images(int(starts[-1]), open_image, where, **request.framing)
    return ImageSet(images, labels["fine"], labels.get("coarse"), names["fine"], names.get("coarse"))


def find(request: Request) -> None:
    """Make sure that the shards of the split are there and of one kind with the training shards.

    Schemas and their metadata are read, rows are not.

    Raises:
        DataError: no such path, no shard of the split or one missing, one that is no Parquet file or lacks an image or
            label column, or other columns or class names than in the training shards.
    """
    shards = _shards(request)
    files = shards[request.split]
    first = (shards["train"] or files)[0]
    columns = _columns(first, _schema(first), request)
    for file in files:
        found = _columns(file, _schema(file), request)
        if found != columns:
            raise DataError(
                f"{file} has the columns {', '.join(found.values())} where {first} has {', '.join(columns.values())}: "
                "export both splits alike"
            )
    for role in ("fine", "coarse"):
        if column := columns.get(role):
            _class_names([first, *files], column)


def _files(request: Request) -> list[Path]:
    """Parquet files of the spec: a file, every file below a folder, or what a pattern matches."""
    for path in request.candidates():
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted(path.rglob("*.parquet"))
        else:
            pattern = path.relative_to(path.anchor) if path.is_absolute() else path
            found = sorted(Path(path.anchor or ".").glob(str(pattern))) if set("*?[") & set(str(path)) else []
        if found:
            return found
        if path.is_dir():
            raise DataError(f"{request.spec!r}: the folder {path} holds no .parquet file")
    raise request.missing("Parquet file or folder")


def _shards(request: Request) -> dict[str, list[Path]]:
    """Shards of ``train`` and ``test``, told by the file's name, else by its folder's; no file is opened."""
    files = _files(request)
    found: dict[str, list[Path]] = {}
    for file in files:
        match = _SPLIT.search(file.stem.lower()) or _SPLIT.fullmatch(file.parent.name.lower())
        found.setdefault(match[1] if match else "", []).append(file)
    if set(found) == {""} and len({_SHARD.sub(r"\1 of \3", file.stem) for file in files}) == 1:
        found = {"train": files}  # one file, or the shards of one export, and no split named: it is all for training
    test = next((found[name] for name in ("test", "validation", "valid", "val", "dev") if name in found), [])
    shards = {"train": found.get("train", []), "test": test}
    if not shards[request.split]:
        seen = ", ".join(file.name for file in files[:5])
        raise DataError(
            f"{request.spec!r} has no {request.split} split: shards must have '{request.split}' in their names or lie "
            f"in a folder of that name (found {seen}); give the folder that holds them all"
        )
    _check_shards(request, shards[request.split])
    return shards


def _check_shards(request: Request, files: list[Path]) -> None:
    folders = {file.parent for file in files}
    if len(folders) > 1:
        places = ", ".join(str(folder) for folder in sorted(folders))
        raise DataError(
            f"{request.spec!r} finds {request.split} shards in several folders ({places}): name one of them"
        )
    groups: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.match(file.stem):
            groups.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    if len(groups) > 1:
        stems = ", ".join(f"{stem}-*-of-{count:05d}" for stem, count in sorted(groups))
        raise DataError(f"{files[0].parent} holds several exports of one split ({stems}): keep one")
    for (stem, count), present in groups.items():
        absent = sorted(set(range(count)) - present)
        if absent:
            raise DataError(f"{files[0].parent} lacks shard {absent[0]} of {count} of {stem!r}: fetch it again")


def _schema(file: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet ({error}): fetch it again") from error


def _read(file: Path, columns: dict[str, str]) -> pa.Table:
    """The columns that are needed, and no other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    absent = sorted(set(columns.values()) - set(_schema(file).names))
    if absent:
        raise DataError(f"{file} lacks the column {absent[0]!r} that the other shards have: fetch the whole set again")
    try:
        return pq.ParquetFile(file).read(list(columns.values()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet ({error}): fetch it again") from error


def _columns(file: Path, schema: pa.Schema, request: Request) -> dict[str, str]:
    """The set's own names for image, fine and, where there is one, coarse."""
    import pyarrow as pa

    def is_image(name: str) -> bool:
        kind = schema.field(name).type
        return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0

    def pick(asked: str | None, usual: Sequence[str], fits: Any, what: str) -> str | None:
        if asked is not None and (asked not in schema.names or not fits(asked)):
            raise DataError(f"{file} has no {what} column {asked!r}; its columns are {_describe(schema)}")
        return asked or next((name for name in usual if name in schema.names and fits(name)), None)

    def is_label(name: str) -> bool:
        return pa.types.is_integer(schema.field(name).type)

    image = pick(request.image_column, _IMAGE_NAMES, is_image, "image")
    if image is None:
        by_type = [name for name in schema.names if is_image(name)]
        if len(by_type) != 1:
            raise DataError(
                f"{file} has {len(by_type) or 'no'} image columns (struct of bytes and path); its columns are "
                f"{_describe(schema)}: name one with data.image_column"
            )
        image = by_type[0]
    fine = pick(request.fine_column, _FINE_NAMES, is_label, "integer label")
    if fine is None:
        raise DataError(
            f"{file} has no integer label column {' or '.join(_FINE_NAMES)}; its columns are {_describe(schema)}: name "
            "one with data.fine_column"
        )
    coarse = pick(request.coarse_column, _COARSE_NAMES, is_label, "integer label")
    return {"image": image, "fine": fine} | ({"coarse": coarse} if coarse else {})


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({str(field.type).split('<')[0]})" for field in schema)


def _labels(files: list[Path], tables: list[pa.Table], column: str) -> np.ndarray:
    for file, table in zip(files, tables, strict=True):
        if table.column(column).null_count:
            row = int(np.flatnonzero(table.column(column).is_null().to_numpy())[0])
            raise DataError(f"row {row} of {file} has no {column} (null): remove such rows or label them")
    return np.concatenate([table.column(column).to_numpy().astype(np.int64) for table in tables])


def _check_range(files: list[Path], tables: list[pa.Table], column: str, num_classes: int) -> None:
    for file, table in zip(files, tables, strict=True):
        values = table.column(column).to_numpy()
        bad = np.flatnonzero((values < 0) | (values >= num_classes))
        if bad.size:
            raise DataError(
                f"row {bad[0]} of {file} has {column} {values[bad[0]]}, outside [0, {num_classes}) ({bad.size} such "
                "rows): a split with hidden labels cannot be used, else mend the labels or the class names"
            )


def _class_names(files: list[Path], column: str) -> tuple[str, ...] | None:
    """Names of a ClassLabel feature in the metadata, or None where the set says nothing about them."""
    found: list[tuple[str, ...] | None] = []
    for file in files:
        metadata = (_schema(file).metadata or {}).get(b"huggingface")
        try:
            feature = json.loads(metadata)["info"]["features"][column] if metadata else {}
            names = feature.get("names") if isinstance(feature, dict) else None
        except (ValueError, KeyError, TypeError):  # other metadata under that key: no names in it
            names = None
        found.append(tuple(map(str, names)) if isinstance(names, list) and names else None)
    for file, names in zip(files, found, strict=True):
        if names != found[0]:
            raise DataError(
                f"{file} and {files[0]} name the classes of {column!r} differently: they are of different exports"
            )
    return found[0]


def _numbers(files: list[Path], column: str) -> tuple[str, ...]:
    """Class numbers as names, counted on the training labels so that both splits agree."""
    labels = _labels(files, [_read(file, {"fine": column}) for file in files], column)
    return tuple(str(k) for k in range(int(labels.max(initial=0)) + 1))
