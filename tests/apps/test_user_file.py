"""A function in the user's own file is what the file says now."""

import os

from bestresponse.apps._user_file import function_in_file


def test_a_file_of_the_same_size_and_time_is_read_anew(tmp_path):
    path = tmp_path / "mine.py"
    found = []
    for number in (8, 9):
        path.write_text(f"def width():\n    return {number}\n")
        os.utime(path, (1e9, 1e9))
        found.append(function_in_file(f"{path}:width", "--model")())
    assert found == [8, 9]
    assert function_in_file(f"{path}:width", "--model") is function_in_file(f"{path}:width", "it")
