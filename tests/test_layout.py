"""Who may import whom, as docs/architecture.md says."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "backends": {"ir", "backends"},
    "runtime": {"ir", "passes", "backends", "runtime"},
    "frontend": {"ir", "passes", "backends", "runtime", "frontend"},
}
LIGHT = {"numpy", "ml_dtypes"}  # may be imported at the top of a file
HEAVY = {"llvmlite", "networkx", "safetensors", "triton", "cuda", "scipy", "torch", "sklearn", "matplotlib", "ziglang"}
HAND_ON_THE_FACE = {"frontend/cli.py", "frontend/tensor_methods.py"}  # users' expressions, __array_namespace__
FILES = [p for top in ALLOWED for p in sorted((ROOT / top).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, node.level, alias.name) for alias in node.names)


def package_of(path: Path, level: int, module: str) -> tuple[str, ...]:
    """The dotted place that a relative import means, from the root of the packages."""
    here = path.relative_to(ROOT).parts[:-1]
    return (*here[: len(here) - level + 1], *module.split("."))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_import_only_what_lies_below_them(path):
    parts = path.relative_to(ROOT).parts
    for node, level, module in imports(ast.parse(path.read_text())):
        where = f"{name_of(path)}:{node.lineno}"
        if not level:
            assert module.split(".")[0] not in ALLOWED, f"{where}: imports inside the packages are relative"
            assert module.split(".")[0] != "tracefuse" or name_of(path) in HAND_ON_THE_FACE, (
                f"{where}: import relatively"
            )
            continue
        place = package_of(path, level, module)
        assert len(place) > 0 and place[0] in ALLOWED[parts[0]], (
            f"{where}: {parts[0]} must not import {'.'.join(place)}"
        )
        if parts[0] == "backends" and place[0] == "backends" and len(place) > 1 and len(parts) > 2:
            assert place[1] == parts[1], f"{where}: a backend must not import another"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_top_of_a_file_imports_nothing_heavy(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        for _, level, module in imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            root = module.split(".")[0]
            fine = level or root in LIGHT or root in sys.stdlib_module_names or root == "__future__"
            assert fine and root not in HEAVY, (
                f"{name_of(path)}:{node.lineno}: import {root} inside the function that needs it"
            )


def test_every_package_is_installed():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"tracefuse"}
    for top in ALLOWED:
        for init in (ROOT / top).rglob("__init__.py"):
            found.add("tracefuse." + ".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def test_files_stay_readable():
    long = [f"{name_of(p)}: {n}" for p in FILES if (n := len(p.read_text().splitlines())) > 600]
    assert not long
