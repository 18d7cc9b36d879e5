"""Image classification sets in Parquet files, as the Hugging Face hub stores them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bestresponse._errors import InputError
from bestresponse.data._classes import class_labels, class_values
from bestresponse.data._dataset import Dataset
from bestresponse.data._files import found, title
from bestresponse.data._images import stack
from bestresponse.data._parquet_layout import Columns, columns, shards

_BATCH = 1024  # encoded images held at once


def load_parquet(path: str | Path) -> Dataset:
    """Labelled images from a Parquet file, or from a folder of them.

    A folder holds `train-00000-of-00002.parquet`, ...; shards are read in order. The `test` shards
    become the official test set. A `validation` group is appended to the training examples (the
    source says so), because `split` draws the validation role itself.

    The images are the one column of type struct<bytes, path>, or else the one binary column. The
    labels are the integer column `label`, `labels`, `fine_label` or `coarse_label` (the first of
    these that is there), or else the only integer column. Class names come from the `huggingface`
    metadata of the schema; without it, the distinct labels are the names.

    Args:
        path: A Parquet file (then only that file is read) or such a folder.

    Returns:
        Images of shape (n, C, H, W), C being 1 (greyscale) or 3 (RGB).

    Raises:
        InputError: A file is missing, broken or lacks the columns, a row holds no image or a wrong
            label, or images differ in size or kind.
    """
    path = found(path)
    roles = shards(path) if path.is_dir() else {"train": [path]}
    files = roles["train"] + roles.get("validation", [])
    layout = _layout(files + roles.get("test", []))
    values = _class_values(files, layout)
    name = title(path) if path.is_dir() else path.stem
    data = _read(files, layout, values, name)
    if "validation" in roles:
        data = replace(data, source=f"{data.source} The validation files are part of training.")
    if "test" not in roles:
        return data
    return replace(data, official_test=_read(roles["test"], layout, values, f"{name} test"))


def _layout(files: list[Path]) -> Columns:
    found_in = [_columns(file) for file in files]
    for file, layout in zip(files, found_in, strict=True):
        if layout != found_in[0]:
            raise InputError(
                f"{file.name!r} and {files[0].name!r} differ in their image column, label column "
                "or class names: put only files of one data set together."
            )
    return found_in[0]


def _columns(file: Path) -> Columns:
    import pyarrow.parquet as pq

    with _translated(file), pq.ParquetFile(file) as parquet:
        return columns(parquet.schema_arrow, file.name)


def _class_values(files: list[Path], layout: Columns) -> np.ndarray:
    if layout.names is not None:
        return np.arange(len(layout.names))
    return class_values(np.concatenate([_labels(file, layout.label) for file in files]))


def _read(files: list[Path], layout: Columns, values: np.ndarray, name: str) -> Dataset:
    labels = [class_labels(_labels(file, layout.label), values, file.name) for file in files]
    joined = torch.cat(labels)
    if not len(joined):
        raise InputError(f"{files[0].name!r} has no rows: give a file with examples.")
    return Dataset(
        inputs=stack(_encoded(files, layout.image), len(joined)),
        labels=joined,
        class_names=layout.names or tuple(str(value) for value in values),
        name=name,
        source=f"Parquet {', '.join(file.name for file in files)}; images from column "
        f"{layout.image!r}, labels from {layout.label!r}.",
    )


def _labels(file: Path, column: str) -> np.ndarray:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with _translated(file), pq.ParquetFile(file) as parquet:
        cells = parquet.read(columns=[column]).column(0)
    if cells.null_count:
        row = pc.index(pc.is_null(cells), True).as_py()
        raise InputError(f"Row {row} of {file.name!r} has no label: fill it in or leave it out.")
    return cells.to_numpy().astype(np.int64)


def _encoded(files: list[Path], column: str) -> Iterator[tuple[str, bytes | None]]:
    for file in files:
        for row, data in enumerate(_cells(file, column)):
            yield f"Row {row} of {file.name!r}", data


def _cells(file: Path, column: str) -> Iterator[bytes | None]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with _translated(file), pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_BATCH, columns=[column]):
            cells = batch.column(0)
            if pa.types.is_struct(cells.type):
                cells = pc.struct_field(cells, "bytes")
            yield from cells.to_pylist()


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".:")
        raise InputError(
            f"{file.name!r} cannot be read as Parquet ({reason}): fetch the file anew."
        ) from error
