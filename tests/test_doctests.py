"""Every example of a docstring, as it is."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parent.parent / "src"


def examples(path):
    """How many prompts the docstrings of a file hold."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.walk(ast.parse(path.read_text()))
    texts = [ast.get_docstring(node) or "" for node in tree if isinstance(node, nodes)]
    return sum(line.lstrip().startswith(">>> ") for text in texts for line in text.splitlines())


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if examples(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples(path):
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # what a reader has
    try:
        result = doctest.testmod(module)
    finally:
        torch.set_default_dtype(before)
    assert result.attempted >= examples(path) > 0
    assert result.failed == 0


def test_there_are_examples_on_most_public_names():
    import bestresponse as br

    classes = [getattr(br, name) for name in br.__all__]
    documented = [item for item in classes if ">>>" in (getattr(item, "__doc__", "") or "")]
    assert len(documented) >= len(classes) / 3
