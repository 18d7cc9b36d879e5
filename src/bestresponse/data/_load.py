"""One door to all readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bestresponse._errors import InputError
from bestresponse.data._csv import load_csv
from bestresponse.data._dataset import Dataset
from bestresponse.data._digits import load_digits
from bestresponse.data._files import found, title, visible
from bestresponse.data._idx import load_idx
from bestresponse.data._image_folder import load_image_folder
from bestresponse.data._parquet import load_parquet


def load(source: str | Path, target: str | None = None) -> Dataset:
    """Labelled data from the bundled digits, a file or a folder.

    Args:
        source: "digits"; a `.csv` or `.parquet` file; an images file in IDX (`-ubyte`, `.gz`); or
            a folder of Parquet files, of IDX files, or of one image folder for each class.
        target: The column that holds the class: needed for CSV, refused otherwise.

    Returns:
        The examples, with the official test set where the data ships one.

    Raises:
        InputError: Nothing is there, it is of no known kind, or it cannot be read.

    Example:
        >>> len(load("digits"))
        1797
    """
    if _is_csv(source):
        return _load_csv(found(source), target)
    if target is not None:
        raise InputError(
            f"target={target!r} names a column but {str(source)!r} is no CSV file: leave it out."
        )
    if source == "digits":
        return load_digits()
    path = found(source)
    return _reader(path)(path)


def _is_csv(source: str | Path) -> bool:
    return Path(source).suffix.lower() == ".csv"


def _load_csv(path: Path, target: str | None) -> Dataset:
    if target is None:
        raise InputError(f"{path.name!r} is a table: name the column of classes with target=.")
    return load_csv(path, target)


def _reader(path: Path) -> Callable[[str | Path], Dataset]:
    if path.is_dir():
        return _folder_reader(path)
    if path.suffix.lower() == ".parquet":
        return load_parquet
    if path.name.endswith(("-ubyte", ".gz")):
        return load_idx
    raise InputError(
        f"{path.name!r} is of no known kind: give 'digits', a .csv or .parquet file, an IDX file "
        "(-ubyte, .gz) or a folder."
    )


def _folder_reader(folder: Path) -> Callable[[str | Path], Dataset]:
    if any(folder.glob("*.parquet")):
        return load_parquet
    if any(folder.glob("*-ubyte")) or any(folder.glob("*-ubyte.gz")):
        return load_idx
    if any(entry.is_dir() for entry in visible(folder)):
        return load_image_folder
    raise InputError(
        f"Folder {title(folder)!r} holds no data: put Parquet files, IDX files or one folder of "
        "images for each class in it."
    )
