"""The floors of docs/design.md, read off the imports: down or within a room, never up."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "bestresponse"
FLOORS = {
    0: [
        "_errors",
        "_tree",
        "_result",
        "_modules",
        "_context",
        "_guards",
        "_purify",
        "_problem",
        "_peak_memory",
    ],
    1: ["operators"],
    2: ["solvers", "optim"],
    3: ["methods"],
    4: ["_nested", "hyper", "response", "jacnet", "diagnostics"],
    5: ["data", "apps"],
    6: ["cli", "__main__"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
BESIDE = {  # rooms of one floor that may see another
    "response": {"hyper"},
    "diagnostics": {"_nested", "hyper", "response", "jacnet"},
    "apps": {"data"},
    **{word: set(FLOORS[0]) for word in FLOORS[0]},
}
CORE_PACKAGES = {"torch", "numpy", "bestresponse"} | set(sys.stdlib_module_names)
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Every imported module or name, with the dots resolved: ('bestresponse.solvers', 'CG')."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ("bestresponse", *path.relative_to(SOURCE).parts[:-1])
                base = ".".join([*package[: len(package) - node.level + 1], *([base] * bool(base))])
            yield from ((base, alias.name, node.lineno) for alias in node.names)


def targets(path):
    """(room, dotted rest, line) of each import from the package; room '' is the flat one."""
    for module, name, line in imports(path):
        if module == "bestresponse" or module.startswith("bestresponse."):
            parts = module.split(".")[1:]
            if not parts and name in FLOOR:
                parts = [name]
            yield (parts[0] if parts else ""), ".".join([*parts[1:], name]), line


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert len(rooms) >= 12
    assert rooms <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        above = [target for target, _, _ in targets(path) if FLOOR.get(target, 0) > 4]
        assert not above, f"importing the library must not load {above}"
        return
    for target, rest, line in targets(path):
        where = f"{path.relative_to(SOURCE)}:{line} imports {target or 'bestresponse'}.{rest}"
        if target == "":
            assert FLOOR[room] >= 5, f"{where}: only finished uses see the flat public names"
        elif target != room and target not in BESIDE.get(room, ()):
            assert target in FLOOR, f"{where}: an unknown room"
            assert FLOOR[target] < FLOOR[room], f"{where}: floor {FLOOR[room]} to {FLOOR[target]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_see_each_others_public_names_only(path):
    """A private file (`_cg.py`) is its room's own; finished uses see public names and `_errors`."""
    room = room_of(path)
    for target, rest, line in targets(path):
        where = f"{path.relative_to(SOURCE)}:{line} imports {target}.{rest}"
        if FLOOR.get(room) == 5 and target not in (room, "_errors"):
            private = [part for part in (target, *rest.split(".")) if part.startswith("_")]
            assert not private, where


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if FLOOR.get(room_of(path), 0) <= 4],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_the_core_needs_torch_and_numpy_only(path):
    packages = {module.partition(".")[0] for module, _, _ in imports(path)} - {""}
    assert packages <= CORE_PACKAGES


def dotted(node):
    """The name of an attribute chain such as torch.nn.functional, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_torch_names_only(path):
    """Rule 9. `torch._weight_norm` may be named: it is replaced, since it has no public name."""
    private = [
        (module, name)
        for module, name, _ in imports(path)
        if module.partition(".")[0] == "torch"
        and any(part.startswith("_") for part in (*module.split("."), name))
    ]
    for node in ast.walk(ast.parse(path.read_text())):
        chain = dotted(node) if isinstance(node, ast.Attribute) else None
        if chain and chain[0] in ("torch", "nn", "F") and chain != ["torch", "_weight_norm"]:
            private += [chain for part in chain[1:] if part.startswith("_") and part[1] != "_"]
    assert not private


def test_the_check_sees_a_breach(tmp_path):
    """A file one floor too low would be caught."""
    assert ("methods", "Implicit", 1) in list(
        _targets_of("from bestresponse.methods import Implicit")
    )
    assert ("solvers", "_cg.CG", 1) in list(_targets_of("from bestresponse.solvers._cg import CG"))
    assert ("_nested", "", 1) in list(_targets_of("import bestresponse._nested"))


def _targets_of(line):
    class Fake(type(SOURCE)):
        def read_text(self):
            return line

    return targets(Fake(SOURCE / "operators" / "_fake.py"))
