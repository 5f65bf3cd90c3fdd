#!/bin/sh
# pytest's monkeypatch on options of torch's compiler, such as torch._inductor.config.cpp.cxx, and
# on a buffer of a torch module, before and after pytest 9.2.
#
# Guess before the first run: all of them are what they were when the test is over.
# Found: with pytest 9.1.1 they are. With 9.2.0 they are gone, and with the option every compilation
# on a CPU that follows in the process ends in "torch._inductor.config.cpp.cxx does not exist":
# since then an attribute that does not lie in the object's own dictionary is deleted again and not
# set back, and torch's settings and modules answer for theirs by __getattr__. A test that patches
# them fails others, by the order in which they run. torch._inductor.config.patch restores.
#
# Ends with 0 while that is so, with 1 when it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy pytest==9.2.0
"$work/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$work/9.1.1" pytest==9.1.1
cat >"$work/look.py" <<'PYTHON'
import pytest
import torch
import torch._inductor.config as config


def after(of, name, value):
    patch = pytest.MonkeyPatch()
    patch.setattr(of, name, value)
    patch.undo()
    try:
        getattr(of, name)
    except AttributeError as error:
        return str(error)
    return "there"


layer = torch.nn.BatchNorm2d(3)
print(f"torch {torch.__version__}, pytest {pytest.__version__}")
print("an option:", after(config, "max_autotune", True))
print("an option in a group:", after(config.cpp, "cxx", ("c++",)))
print("a buffer:", after(layer, "running_mean", torch.ones(3)))
PYTHON
before=$(PYTHONPATH="$work/9.1.1" "$work/venv/bin/python" "$work/look.py")
since=$("$work/venv/bin/python" "$work/look.py")
printf '%s\n%s\n' "$before" "$since"
[ "$(printf '%s' "$before" | grep -c ': there$')" = 3 ] || exit 1
[ "$(printf '%s' "$since" | grep -c 'does not exist$\|has no attribute')" = 3 ]
