"""Tables of numbers with a class in one column."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data._dataset import Dataset
from bestresponse.data._files import found, reading


def load_csv(path: str | Path, target: str) -> Dataset:
    r"""A table for classification: a header line, numeric features and one class column.

    Classes are the distinct values of the target: whole numbers in numeric order, words in
    alphabetic order. A target with fractions is refused, since that is a regression.

    Args:
        path: A comma-separated file in UTF-8 whose first line names the columns.
        target: The name of the column that holds the class.

    Returns:
        Features of shape (n, d), the other columns in their order; `split` standardises them.

    Raises:
        InputError: The file or the target column is missing, a line is too long or too short, or a
            cell is empty or no finite number; the message names the column and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "iris.csv"
        ...     _ = file.write_text("width,kind,length\n0.2,setosa,1.4\n2.1,virginica,5.6\n")
        ...     data = load_csv(file, target="kind")
        >>> data.class_names, data.labels.tolist(), data.shape
        (('setosa', 'virginica'), [0, 1], (2,))
    """
    path = found(path)
    features, classes = _read(path, target)
    names, labels = _classes(classes, target, path.name)
    return Dataset(
        inputs=features,
        labels=labels,
        class_names=names,
        name=path.stem,
        source=f"CSV file {path.name}, target column {target!r}.",
    )


def load_columns(path: str | Path, columns: Sequence[str]) -> Tensor:
    r"""Columns of numbers, in the order they are asked for.

    Args:
        path: A comma-separated file in UTF-8 whose first line names the columns.
        columns: The names of those that are wanted; the others may hold anything.

    Returns:
        The numbers, (n, columns), in float64.

    Raises:
        InputError: The file or a column is missing, or a cell is empty or no finite number; the
            message names the column and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "gas.csv"
        ...     _ = file.write_text("site,ppm,volt\nA,1,0.2\nB,3,0.7\n")
        ...     load_columns(file, ["volt", "ppm"])
        tensor([[0.2000, 1.0000],
                [0.7000, 3.0000]], dtype=torch.float64)
    """
    path = found(path)
    rows = _rows(path)
    header = _names(next(rows, (0, []))[1], path.name)
    for column in columns:
        if column not in header:
            raise InputError(
                f"{path.name!r} has no column {column!r}: choose from {', '.join(header)}."
            )
    places, numbers, count = [header.index(column) for column in columns], array("d"), 0
    for line, row in rows:
        _check_length(row, header, line, path.name)
        numbers.extend(_numbers([row[i] for i in places], list(columns), line, path.name))
        count += 1
    if not count:
        raise InputError(f"{path.name!r} has a header but no rows: add examples.")
    return torch.tensor(numbers, dtype=torch.float64).reshape(count, len(places))


def _read(path: Path, target: str) -> tuple[Tensor, list[str]]:
    rows = _rows(path)
    header = _header(next(rows, (0, []))[1], target, path.name)
    at = header.index(target)
    names = header[:at] + header[at + 1 :]
    # A packed array instead of lists of text: a large table must not grow tenfold on its way in.
    numbers, classes = array("f"), []
    for line, row in rows:
        _check_length(row, header, line, path.name)
        classes.append(_word(row.pop(at), target, line, path.name))
        numbers.extend(_numbers(row, names, line, path.name))
    if not classes:
        raise InputError(f"{path.name!r} has a header but no rows: add examples.")
    table = np.array(numbers, dtype=np.float32).reshape(len(classes), len(names))
    return torch.from_numpy(table), classes


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        # "utf-8-sig" drops the mark that spreadsheets put before the first column's name.
        with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            yield from ((lines.line_num, row) for row in lines if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path.name!r} is not comma-separated text in UTF-8 ({error}): export it as such."
        ) from error


def _names(cells: list[str], file: str) -> list[str]:
    """The names of the columns, each once."""
    header = [cell.strip() for cell in cells]
    if not header:
        raise InputError(f"{file!r} is empty: give a header line and rows.")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{file!r} has two columns named {twice!r}: rename one of them.")
    return header


def _header(cells: list[str], target: str, file: str) -> list[str]:
    header = _names(cells, file)
    if target not in header:
        raise InputError(
            f"{file!r} has no column {target!r}: choose the target from {', '.join(header)}."
        )
    if len(header) == 1:
        raise InputError(f"{file!r} has only the column {target!r}: add columns of features.")
    return header


def _check_length(row: list[str], header: list[str], line: int, file: str) -> None:
    if len(row) != len(header):
        raise InputError(
            f"Line {line} of {file!r} has {len(row)} cells but the header {len(header)}: "
            "give every line one cell a column."
        )


def _word(cell: str, column: str, line: int, file: str) -> str:
    if not cell.strip():
        raise InputError(
            f"Column {column!r} is empty in line {line} of {file!r}: fill it in or drop the line."
        )
    return cell.strip()


def _numbers(row: list[str], names: list[str], line: int, file: str) -> list[float]:
    try:
        numbers = [float(cell) for cell in row]
    except ValueError:
        numbers = []
    # Beyond float32's largest number a value would become infinite.
    if len(numbers) < len(row) or not all(abs(number) < 3.4e38 for number in numbers):
        raise _bad_cell(row, names, line, file)
    return numbers


def _bad_cell(row: list[str], names: list[str], line: int, file: str) -> InputError:
    column, cell = next((n, c) for n, c in zip(names, row, strict=True) if not _is_number(c))
    if not cell.strip():
        what, cure = "is empty", "fill it in or drop the line"
    else:
        what, cure = f"holds {cell!r}, no finite number", "encode the column as numbers or drop it"
    return InputError(f"Column {column!r} {what} in line {line} of {file!r}: {cure}.")


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) < 3.4e38
    except ValueError:
        return False


def _classes(cells: list[str], target: str, file: str) -> tuple[tuple[str, ...], Tensor]:
    numbers = _whole_numbers(cells, target, file)
    words = cells if numbers is None else [str(number) for number in numbers]
    names = sorted(set(words), key=None if numbers is None else int)
    place = {name: label for label, name in enumerate(names)}
    return tuple(names), torch.tensor([place[word] for word in words])


def _whole_numbers(cells: list[str], target: str, file: str) -> list[int] | None:
    """The cells as integers, or nothing where they are words."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    fraction = next((n for n in numbers if math.isnan(n) or not n.is_integer()), None)
    if fraction is not None:
        raise InputError(
            f"Column {target!r} of {file!r} holds {fraction}, a measure and no class: choose a "
            "target of words or whole numbers, since this loader is for classification."
        )
    return [int(number) for number in numbers]
