"""The integration where the extra is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fastalign.errors import BackendError


@pytest.mark.parametrize("name", ["ray", "pyarrow"])
def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch, photos, tmp_path, name):
    from fastalign.integrations.ray import score_collection

    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=r"pip install '\.\[ray\]'"):
        score_collection("none.safetensors", photos, tmp_path / "out")


def test_importing_the_integration_loads_no_ray():
    code = (
        "import fastalign.integrations.ray, fastalign.cli, json, sys\n"
        "print(json.dumps([m for m in ('ray', 'pyarrow') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
