"""Small made image files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

WriteParquet = Callable[..., Path]


def random_image(seed: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def write_parquet() -> WriteParquet:
    """write(path, images=[bytes], columns={name: values}, names={column: [names]}, image_column="img") -> path."""

    def write(
        path: Path,
        images: list[bytes | None],
        columns: dict[str, list[Any]],
        names: dict[str, list[str]] | None = None,
        image_column: str = "img",
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
        table = pa.table({image_column: pa.array(rows, struct), **{key: pa.array(v) for key, v in columns.items()}})
        if names is not None:
            features = {key: {"names": value, "_type": "ClassLabel"} for key, value in names.items()}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path, row_group_size=3)
        return path

    return write
