#!/bin/sh
# A part of a Triton kernel with a string as default value of a constexpr parameter, such as the
# eviction policy of a load, compiled for sm_90 without a GPU.
#
# Guess before the first run: leaving the argument out is the same as giving the default, as it is
# with numbers, and as every release from 3.7 on has it.
# Found: Triton 3.6.0, which torch 2.11 requires, ends in "'str' object has no attribute 'type'" for
# the string, while a number as default compiles, and so does the same string given by the caller.
#
# Ends with 0 while that is so, with 1 when it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
for version in 3.6.0 3.7.0; do
    "$work/venv/bin/pip" install -q --disable-pip-version-check --no-deps \
        --target "$work/$version" "triton==$version"
done
# A file, since Triton reads the source of a kernel.
cat >"$work/kernels.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def read(pointer, POLICY: tl.constexpr = ""):
    return tl.load(pointer, eviction_policy=POLICY)


@triton.jit
def scaled(value, FACTOR: tl.constexpr = 3):
    return value * FACTOR


@triton.jit
def string_given(source, target):
    tl.store(target, read(source, ""))


@triton.jit
def string_left_out(source, target):
    tl.store(target, read(source))


@triton.jit
def number_left_out(source, target):
    tl.store(target, scaled(tl.load(source)))


for kernel in (string_given, string_left_out, number_left_out):
    source = ASTSource(kernel, {"source": "*fp32", "target": "*fp32"})
    try:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
        outcome = "compiles"
    except Exception as error:
        outcome = f"{type(error).__name__}: {str(error.__cause__ or error).splitlines()[-1]}"
    print(f"{triton.__version__} {kernel.fn.__name__}: {outcome}")
PYTHON
found=$(for version in 3.6.0 3.7.0; do
    PYTHONPATH="$work/$version" TRITON_CACHE_DIR="$work/cache" \
        "$work/venv/bin/python" "$work/kernels.py"
done)
echo "$found"
wanted="3.6.0 string_given: compiles
3.6.0 string_left_out: CompilationError: AttributeError(\"'str' object has no attribute 'type'\")
3.6.0 number_left_out: compiles
3.7.0 string_given: compiles
3.7.0 string_left_out: compiles
3.7.0 number_left_out: compiles"
if [ "$found" = "$wanted" ]; then
    echo "as found before"
else
    echo "changed"
    exit 1
fi
