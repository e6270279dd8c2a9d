"""The modules of both packages import each other without a circle, imports inside of functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("recbole_unisrec", "dataset_tools")
    for path in (ROOT / package).rglob("*.py")
}


def imports_of(module: str) -> set[str]:
    """The project's modules that one imports anywhere in its file, but for type checkers alone."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                found.add(inside if inside in FILES else base)
    return {name for name in found if name in FILES and name != module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
    ],
)
def test_circles_are_found(graph: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(graph) == expected


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imports_of(module) for module in FILES}
    assert graph["recbole_unisrec.quick_start"] >= {"recbole_unisrec.settings", "recbole_unisrec.registry"}
    assert not circles(graph)


def test_the_registry_imports_nothing_that_imports_others() -> None:
    assert imports_of("recbole_unisrec.registry") == {"recbole_unisrec.errors"}


def test_the_tools_know_nothing_of_the_models() -> None:
    tools = [module for module in FILES if module.startswith("dataset_tools")]
    assert not [m for m in tools for target in imports_of(m) if target.startswith("recbole_unisrec")]
