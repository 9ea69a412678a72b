"""How modules hang together: no circles of imports, no private names of others, nothing that is not there."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from notebooks import ROOT, TEMPLATE, chapters, read

LIBRARY = sorted((ROOT / "clipnotes").rglob("*.py"))
PROGRAMS = sorted([*(ROOT / "recordings").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOTEBOOKS = [TEMPLATE, *chapters()]
PROJECT = {"clipnotes", "recordings", *(path.stem for path in (ROOT / "tools").glob("*.py"))}


def module_name(path: Path) -> str:
    """clipnotes/toyworld/films.py -> clipnotes.toyworld.films; a package goes by the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules among `modules` that a source imports, anywhere in it. All imports of the project are absolute."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of the module"
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in inner.values()}
    return found & modules


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last the first, or nothing."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module):]
        if module in done:
            return []
        found = next((c for after in sorted(graph[module]) if (c := visit(after, [*way, module]))), [])
        done.add(module)
        return found

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def private_uses(tree: ast.AST) -> list[str]:
    """Private names of other modules of the project: imported ones, and attributes that this source does not define.

    What hangs on a name that comes from another project is not looked at.
    """
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    foreign, found = set(), []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            home = getattr(node, "module", None)
            ours = [alias for alias in node.names if (home or alias.name).split(".")[0] in PROJECT]
            foreign |= {(alias.asname or alias.name).split(".")[0] for alias in node.names if alias not in ours}
            found += [f"line {node.lineno}: {alias.name} of {home}" for alias in ours if is_private(alias.name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            if root(node) not in foreign:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def root(node: ast.AST) -> str | None:
    """The name at which a chain of attributes begins: torch in torch.utils.data."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def asked_for(tree: ast.AST) -> list[tuple[str, str]]:
    """(module of the library, name) that a source imports from it or reads as its attribute."""
    found, modules = [], {}
    variables = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    variables |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clipnotes":
            found += [(node.module, alias.name) for alias in node.names]
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules and node.value.id not in variables:
                found.append((modules[node.value.id], node.attr))
    return found


def module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def missing(tree: ast.AST) -> list[str]:
    """What a source asks a module of the library for, and is neither in it nor a module below it."""
    asked = [(module(home), f"{home}.{name}") for home, name in asked_for(tree)]  # None: a class or a function
    return [name for home, name in asked if home and not hasattr(home, name.rpartition(".")[2]) and not module(name)]


def source_of(path: Path) -> str:
    """The Python of a program, or of all cells of a notebook."""
    if path.suffix == ".ipynb":
        return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    return path.read_text("utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_modules_import_each_other():
    modules = {module_name(path) for path in LIBRARY}
    graph = {module_name(path): imported(ast.parse(source_of(path)), modules) for path in LIBRARY}
    assert sum(map(len, graph.values())) > 60, "imports were found"
    assert circle(graph) == []


@pytest.mark.parametrize("path", [*LIBRARY, *PROGRAMS, *NOTEBOOKS], ids=name_of)
def test_no_module_reaches_for_private_names_of_another(path):
    assert private_uses(ast.parse(source_of(path))) == []


@pytest.mark.parametrize("path", [*LIBRARY, *PROGRAMS, *TESTS, *NOTEBOOKS], ids=name_of)
def test_what_is_asked_of_the_library_exists(path):
    assert missing(ast.parse(source_of(path))) == []


def test_a_circle_is_found_wherever_it_lies():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    deferred = ast.parse("def f():\n    from clipnotes.toyworld import films, singles")
    modules = {"clipnotes.toyworld", "clipnotes.toyworld.films", "clipnotes.hub"}
    assert imported(deferred, modules) == {"clipnotes.toyworld", "clipnotes.toyworld.films"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from clipnotes.draw import _png", ["line 1: _png of clipnotes.draw"]),
        ("from clipnotes import draw\ndraw._png(1)", ["line 2: draw._png"]),
        ("from claims import _same", ["line 1: _same of claims"]),
        ("chapter = recorder.chapter\nchapter._cached()", ["line 2: chapter._cached"]),
        ("import torch\nfrom torch.utils._device import _devices\ntorch._C.x", []),
        ("class A:\n    def f(self):\n        self._x = self.__dict__\n        return self._x", []),
    ],
)
def test_private_uses_are_found(source, found):
    assert private_uses(ast.parse(source)) == found


def test_what_is_missing_is_found():
    source = "from clipnotes import toyworld as world\nfrom clipnotes.draw import nothing\nworld.singles, world._choose"
    assert missing(ast.parse(source)) == ["clipnotes.draw.nothing", "clipnotes.toyworld._choose"]


def test_films_are_found_where_they_were():
    import clipnotes
    from clipnotes.toyworld import films

    assert clipnotes.films is films
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clipnotes.nothing
