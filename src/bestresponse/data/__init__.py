"""Data with explicit roles: bundled digits, Parquet, image folders, CSV and IDX files; text.

`load` finds the right reader by itself; `split` gives every example exactly one role.
"""

from bestresponse.data._csv import load_columns, load_csv
from bestresponse.data._dataset import Dataset
from bestresponse.data._digits import load_digits
from bestresponse.data._idx import load_idx
from bestresponse.data._image_folder import load_image_folder
from bestresponse.data._load import load
from bestresponse.data._parquet import load_parquet
from bestresponse.data._split import Split
from bestresponse.data._splits import Splits, split
from bestresponse.data._text import Text, load_text

__all__ = [
    "Dataset",
    "Split",
    "Splits",
    "Text",
    "load",
    "load_columns",
    "load_csv",
    "load_digits",
    "load_idx",
    "load_image_folder",
    "load_parquet",
    "load_text",
    "split",
]
