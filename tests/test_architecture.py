"""The house rules that a machine can check, by walking the syntax trees of the package."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "piadm_hpc"

# from the bottom up; a room imports only rooms before it and itself
ROOMS = (
    "host",
    "schema",
    "theory",
    "gaussian",
    "integrators",
    "comm",
    "solvers",
    "config",
    "data",
    "store",
    "models",
    "run",
    "analysis",
    "submit",
    "cli",
    "__main__",
)
FLOOR = {room: floor for floor, room in enumerate(ROOMS)}
CORE = {"theory", "gaussian", "integrators", "comm", "solvers"}
AT_THE_ROOT = {"__init__.py", "__main__.py"}

# the one room that may import a library, and whether only inside functions
HOMES = {"mpi4py": ("comm", True), "h5py": ("store", False), "submitit": ("submit", True), "matplotlib": ("analysis", False)}
SPEAKERS = {"comm/rank_grid.py", "models/training/fields.py"}
MAX_FILE, MAX_SOLVER, MAX_FUNCTION = 300, 200, 60
# the places that may test for a class; all others use the attributes that a record has
ASKED = {
    "Chain": ("solvers/", "run/build.py"),
    "Collocation": ("solvers/", "run/build.py"),
    "PSLD": ("theory/", "integrators/", "run/build.py", "models/phase_denoiser.py"),
}
EARLY = {"assume", "hypothesis.assume", "pytest.skip", "pytest.xfail"}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it names, and whether it runs when the file is loaded."""

    module: str
    line: int
    at_load: bool
    for_types: bool

    @property
    def room(self) -> str | None:
        """The room of this package that is imported, or None for other libraries."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "piadm_hpc" and len(parts) > 1 else None

    @property
    def library(self) -> str:
        return self.module.split(".")[0]


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree(path), path, at_load=True, for_types=False))


def _imports(node: ast.AST, path: Path, *, at_load: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_load, for_types)
        elif isinstance(child, ast.ImportFrom):
            for module in _modules(child, path):
                yield Import(module, child.lineno, at_load, for_types)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, path, at_load=at_load and not inside, for_types=for_types or types)


def _modules(node: ast.ImportFrom, path: Path) -> list[str]:
    """Return the absolute names of the modules that a `from` statement names; `from . import a, b` names two."""
    if node.level == 0:
        return [str(node.module)]
    package = ("piadm_hpc", *path.relative_to(PACKAGE).parts[:-1])
    base = ".".join(package[: len(package) - node.level + 1])
    return [f"{base}.{node.module}"] if node.module else [f"{base}.{alias.name}" for alias in node.names]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def no(violations: list[str]) -> None:
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


def test_every_file_is_in_a_room() -> None:
    rooms = {room_of(path) for path in files()} - {*FLOOR, "__init__"}
    no([f"{room}: give it a place among ROOMS in tests/test_architecture.py" for room in sorted(rooms)])
    loose = {path.name for path in PACKAGE.glob("*.py")} - AT_THE_ROOT
    no([f"{file} lies at the root; put it into a room" for file in sorted(loose)])


def test_every_room_says_what_it_is_for() -> None:
    folders = {path.parent for path in files()}
    no([f"{folder.relative_to(PACKAGE)} has no __init__.py" for folder in folders if not (folder / "__init__.py").is_file()])


def test_imports_go_down_only() -> None:
    no(
        [
            f"{name(path)}:{found.line} imports {found.room}, which comes after {room_of(path)}"
            for path in files()
            if room_of(path) != "__init__"
            for found in imports(path)
            if found.room not in (None, room_of(path)) and not found.for_types
            if FLOOR.get(str(found.room), len(ROOMS)) >= FLOOR.get(room_of(path), 0)
        ]
    )


def test_no_two_files_import_each_other() -> None:
    """Also inside a room, and also inside functions: what needs a delayed import to load is in the wrong place."""
    reached: dict[Path, set[Path]] = {path: set() for path in files()}
    for path in files():
        for found in imports(path):
            if found.library == "piadm_hpc" and not found.for_types:
                base = PACKAGE.joinpath(*found.module.split(".")[1:])
                reached[path] |= {target for target in (base.with_suffix(".py"), base / "__init__.py") if target in reached}
    for middle in reached:
        for path in reached:
            if middle in reached[path]:
                reached[path] |= reached[middle]
    no([f"{name(path)} imports itself by way of others" for path, below in reached.items() if path in below])


def test_libraries_stay_in_their_rooms() -> None:
    no(
        [
            f"{name(path)}:{found.line} imports {found.library}; only {home} may" + (", inside a function" if lazily else "")
            for path in files()
            for found in imports(path)
            if found.library in HOMES
            for home, lazily in [HOMES[found.library]]
            if room_of(path) != home or (lazily and found.at_load)
        ]
    )


def test_the_core_needs_torch_and_numpy_alone() -> None:
    allowed = {"torch", "numpy", "piadm_hpc", *sys.stdlib_module_names}
    no(
        [
            f"{name(path)}:{found.line} imports {found.library}; the numerical core has torch and numpy alone"
            for path in files()
            if room_of(path) in CORE
            for found in imports(path)
            if found.library not in allowed and not found.for_types and (found.library, room_of(path)) != ("mpi4py", "comm")
        ]
    )


def test_one_place_knows_the_world() -> None:
    no(
        [
            f"{name(path)}:{node.lineno} uses COMM_WORLD; communicators are arguments, made in comm/"
            for path in files()
            if name(path) != "comm/rank_grid.py"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and node.attr == "COMM_WORLD"
        ]
    )


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    most = {file: MAX_SOLVER if file.startswith("solvers/") else MAX_FILE for file in lengths}
    no([f"{file} has {length} lines, more than {most[file]}" for file, length in lengths.items() if length > most[file]])


def test_functions_are_short() -> None:
    no(
        [
            f"{name(path)}:{node.lineno} {node.name} has {length} lines, more than {MAX_FUNCTION}"
            for path in files()
            for node in functions(path)
            if (length := _body_length(node)) > MAX_FUNCTION
        ]
    )


def _body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from the first statement after the docstring to the last."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return int(body[-1].end_lineno or 0) - body[0].lineno + 1


def test_what_is_public_is_described() -> None:
    missing = [name(path) for path in files() if tree(path).body and not ast.get_docstring(tree(path))]
    missing += [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in files()
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    no([f"{what} has no docstring" for what in missing])


def test_only_the_commands_print() -> None:
    no(
        [
            f"{name(path)}:{node.lineno} prints; log, or return text to the command"
            for path in files()
            if name(path) not in SPEAKERS and room_of(path) != "cli"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    )


def test_asserts_narrow_types_and_never_judge_input() -> None:
    no(
        [
            f"{name(path)}:{node.lineno} asserts `{ast.unparse(node.test)}`; raise ValueError with words"
            for path in files()
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Assert) and not _narrows(node.test)
        ]
    )


def _narrows(test: ast.expr) -> bool:
    """Whether a condition is `x is not None`, `isinstance(x, ...)`, or a conjunction of these."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(map(_narrows, test.values))
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and ast.unparse(test.comparators[0]) == "None"


def test_schemes_and_processes_are_known_by_what_they_say_of_themselves() -> None:
    no(
        [
            f"{name(path)}:{node.lineno} asks for the class {asked}; give the classes an attribute"
            for path in files()
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
            for asked, places in ASKED.items()
            if re.search(rf"\b{asked}\b", ast.unparse(node.args[1])) and not name(path).startswith(places)
        ]
    )


def test_nothing_is_pickled() -> None:
    loads = {"torch.load", "torch.save", "numpy.load", "np.load"}
    violations = [f"{name(path)}:{i.line} imports {i.module}" for path in files() for i in imports(path) if i.library == "pickle"]
    violations += [
        f"{name(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in loads
    ]
    no(violations)


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    run_python("import sys, piadm_hpc\nheavy = {'torch', 'mpi4py', 'h5py', 'xarray'} & set(sys.modules)\nassert not heavy, heavy")


def test_everything_but_launched_ranks_works_without_mpi() -> None:
    run_python(
        "import sys\n"
        "sys.modules['mpi4py'] = sys.modules['submitit'] = None\n"
        "import piadm_hpc.cli.main, piadm_hpc.run.execute, piadm_hpc.run.plan, piadm_hpc.cli.diagnosis\n"
        "assert piadm_hpc.rank_grid().world.size == 1\n"
    )


def test_no_test_passes_by_returning_early() -> None:
    """Cases that do not apply are left out of the parameters, where a reader sees it; a test that starts also asserts."""
    no(
        [
            f"{path.name}:{node.lineno} {test.name} leaves before its assertions"
            for path in sorted(Path(__file__).parent.glob("test_*.py"))
            for test in functions(path)
            if test.name.startswith("test_")
            for node in _own_statements(test)
            if isinstance(node, ast.Return) or (isinstance(node, ast.Call) and ast.unparse(node.func) in EARLY)
        ]
    )


def _own_statements(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of the functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own_statements(child)


@pytest.mark.parametrize("package", ["piadm_hpc", "piadm_hpc.integrators", "piadm_hpc.submit"])
def test_names_loaded_when_first_used_are_those_that_type_checkers_see(package: str) -> None:
    module = importlib.import_module(package)
    aliases, modules = getattr(module, "_ALIASES", {}), getattr(module, "_MODULES", {})
    loaded = {(home, aliases.get(name, name)) for name, home in module._HOMES.items()}
    loaded |= {(home.rpartition(".")[0], home.rpartition(".")[2]) for home in modules.values()}
    (block,) = (node for node in tree(Path(str(module.__file__))).body if isinstance(node, ast.If))
    statements = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {(node.module or "", alias.name) for node in statements for alias in node.names} == loaded
    assert all(hasattr(module, name) for name in module.__all__)
