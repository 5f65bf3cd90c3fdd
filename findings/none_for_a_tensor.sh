#!/bin/sh
# None given to a custom op of torch whose schema says `Tensor x`, not `Tensor? x`: through
# torch.library.custom_op, through a Library, traced, exported, and in a list of tensors.
#
# Guess before the first run: the schema refuses None as it refuses a string, for an operator of
# aten as for one's own, and torch.library.opcheck notes it if not.
# Found: torch 2.13.0 hands None to the kernel of one's own op, opcheck calls it a success, a full
# graph compiles and torch.export writes the call with None; only aten's own kernels, and a list
# that holds None, refuse it. A kernel must look at each tensor itself.
#
# Ends with 0 while that is so, with 1 when it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"
cat >"$work/none.py" <<'PYTHON'
import torch


@torch.library.custom_op("probe::own", mutates_args=())
def own(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1) if x is None else x.clone()


@own.register_fake
def _(x):
    return torch.empty(1) if x is None else torch.empty_like(x)


library = torch.library.Library("probe", "FRAGMENT")
library.define("defined(Tensor x) -> Tensor")
library.define("several(Tensor[] x) -> Tensor")
for name in ("defined", "several"):
    library.impl(name, lambda x: torch.full((1,), float(x is None)), "CompositeExplicitAutograd")


class Calls(torch.nn.Module):
    def forward(self, y):
        return own(None) + y


def exported():
    code = torch.export.export(Calls(), (torch.ones(1),)).graph_module.code
    return next(line.strip() for line in code.splitlines() if "probe" in line)


def outcome(call):
    try:
        return call()
    except RuntimeError as error:
        return f"RuntimeError: {str(error).splitlines()[0].strip()}"


print("schema:", torch.ops.probe.own.default._schema)
print("a string:", outcome(lambda: own("text")).split(" for argument")[0])
print("None, custom_op:", outcome(lambda: own(None).tolist()))
print("None, Library:", outcome(lambda: torch.ops.probe.defined(None).tolist()))
print("opcheck:", sorted(set(torch.library.opcheck(own, (None,)).values())))
print("full graph:", torch.compile(Calls(), fullgraph=True, backend="eager")(torch.ones(1)).tolist())
print("exported:", exported())
print("in a list:", outcome(lambda: torch.ops.probe.several([None])).split(" for argument")[0])
print("aten:", outcome(lambda: torch.ops.aten.sin(None)).split(" (")[0])
PYTHON
found=$("$work/venv/bin/python" "$work/none.py")
echo "$found"
wanted="schema: probe::own(Tensor x) -> Tensor
a string: RuntimeError: probe::own() Expected a value of type 'Tensor'
None, custom_op: [0.0]
None, Library: [1.0]
opcheck: ['SUCCESS']
full graph: [1.0]
exported: own = torch.ops.probe.own.default(None)
in a list: RuntimeError: probe::several() Expected a value of type 'List[Tensor]'
aten: RuntimeError: Expected a proper Tensor but got None"
if [ "$found" = "$wanted" ]; then
    echo "as found before"
else
    echo "changed"
    exit 1
fi
