"""The package as installed: light to import, needing no extra, its examples true."""

import ast
import doctest
import graphlib
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ksubspaces

MODULES = [m.name for m in pkgutil.walk_packages(ksubspaces.__path__, "ksubspaces.") if not m.name.endswith("__main__")]
OPTIONAL = ["torch", "cupy", "sklearn", "rich", "matplotlib", "pandas", "platformdirs", "tokenizers", "transformers"]


def imported(name):
    """A module; what is there for an extra that is not installed is passed over."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = [extra for extra in OPTIONAL if importlib.util.find_spec(extra) is None]
        if error.name in absent or (error.name is None and "pip install" in str(error) and absent):
            pytest.skip(f"{error}")
        raise


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_import_loads_no_extra_and_no_compiler():
    loaded = run("import sys, ksubspaces, ksubspaces.kernels; print(*sys.modules)").split()
    assert not {*OPTIONAL, "numba", "scipy"} & {name.partition(".")[0] for name in loaded}


def test_a_fit_needs_no_extra():
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in OPTIONAL)
    program = f"""
import sys
{blocked}
import numpy as np, ksubspaces
X = np.random.default_rng(0).normal(size=(50, 4))
model = ksubspaces.fit_subspaces(X, 2, 1, seed=0)
model.factorize(X).stitch()
print(model)
"""
    assert run(program).startswith("Subspaces(2 subspaces")


def test_import_takes_under_half_a_second():
    """Of the processor's time: a busy machine takes longer."""
    program = """
import numpy, time
begun = time.process_time()
import ksubspaces
print(time.process_time() - begun)
"""
    assert min(float(run(program)) for _ in range(3)) < 0.5


def imports(name, known):
    """The package's modules that one of them imports, at its top or within a function."""
    spec = importlib.util.find_spec(name)
    package = name if spec.submodule_search_locations else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            yield from known.intersection(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield from known.intersection([f"{source}.{alias.name}"]) or known.intersection([source])


def test_no_module_imports_one_that_imports_it():
    known = {"ksubspaces", *MODULES}
    graph = {name: {*imports(name, known)} - {name, "ksubspaces"} for name in known - {"ksubspaces"}}
    assert sum(map(len, graph.values())) > len(graph)
    assert {"ksubspaces.factorization", "ksubspaces.arrays"} <= graph["ksubspaces.subspaces"]
    graphlib.TopologicalSorter(graph).prepare()  # refuses circles, and names the modules in one


EXAMPLES_NEED = {"ksubspaces.blocked_factors": "dask", "ksubspaces.row_files": "dask"}


@pytest.mark.parametrize("name", ["ksubspaces", *MODULES])
def test_examples_in_docstrings(name):
    if name in EXAMPLES_NEED:
        pytest.importorskip(EXAMPLES_NEED[name])
    assert doctest.testmod(imported(name)).failed == 0


def test_public_names():
    assert set(ksubspaces.__all__) <= set(dir(ksubspaces))
    for name in ("fit_subspaces", "Subspaces", "Factorization"):
        assert len(getattr(ksubspaces, name).__doc__) > 100
