"""One wheel under several torch releases: build it once, install it into a fresh environment for
each, and compare the native ops, forward and backward, with the reference that came with them.

    python tools/two_torches.py                    torch 2.13.0, and the torch that runs this
    python tools/two_torches.py 2.11.0 current     the oldest release that the project promises
    python tools/two_torches.py 2.13.0+cpu --build-under 2.13.0+cpu
                                                   the CUDA kernels are built under a torch that
                                                   knows no CUDA, and load where there is none

Releases are downloaded with pip (2.11.0 with its CUDA libraries: 5 GB). ``current`` borrows the
torch of this environment and nothing else of it. Exit status 1 where one release disagrees, or
where nvcc is there and the wheel holds no CUDA kernels.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Runs in each environment, isolated from this one and from the checkout.
CHECK = r"""
import sys
from pathlib import Path

import torch

import fastalign
from fastalign import ops
from fastalign.ops.arguments import Companion
from fastalign.ops.schema import OPS

assert Path(fastalign.__file__).is_relative_to(sys.prefix), fastalign.__file__
generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def worst(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def example(argument, dtype):
    # Goes with features of the shape below, of the first dtype allowed.
    size = argument.shape(*shape) if isinstance(argument, Companion) else shape
    dtype = argument.dtypes(dtype)[0] if isinstance(argument, Companion) else dtype
    if dtype == torch.int64:
        return torch.tensor([4, -2, 4, 9, 4, -2])
    values = normal(*size)
    return values > -1 if dtype == torch.bool else values


shape = 6, 21, 13, 37
calls = {}
for name, op in OPS.items():
    if not name.endswith("_backward"):
        of = op.declaration.arguments
        calls[name] = [example(a, torch.float32) for a in of if a.type.startswith("Tensor")]
agreed = True
for name, tensors in calls.items():
    results = {}
    for backend in ("cpu", "reference"):
        given = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors]
        leaves = [tensor for tensor in given if tensor.requires_grad]
        value = getattr(ops, name)(*given, backend=backend)
        slope = torch.linspace(-1, 1, value.numel()).reshape(value.shape) + 0.1
        results[backend] = value.detach(), torch.autograd.grad((value * slope).sum(), leaves)
    (value, gradients), (wanted, wanted_gradients) = results["cpu"], results["reference"]
    forward = worst(value, wanted)
    backward = max(map(worst, gradients, wanted_gradients))
    fine = max(forward, backward) < 1e-5
    agreed = agreed and fine
    verdict = "agrees" if fine else "DIFFERS"
    print(f"  {name:24}{verdict:9}forward {forward:.1e}  backward {backward:.1e}")

# A large gradient lies in memory of the library's own, which the next one takes over.
p, z = normal(2, 8, 256, 256).requires_grad_(), normal(2, 8, 256, 256)
(wanted,) = torch.autograd.grad(ops.dense_similarity_loss(p, z, backend="reference"), p)
addresses = []
for turn in range(2):
    (gradient,) = torch.autograd.grad(ops.dense_similarity_loss(p, z, backend="cpu"), p)
    error, own = worst(gradient, wanted), not gradient.untyped_storage().resizable()
    addresses.append(gradient.data_ptr())
    fine = own and addresses[0] == addresses[-1] and error < 1e-5
    agreed = agreed and fine
    del gradient
    print(f"  {'large gradient':24}{'agrees' if fine else 'DIFFERS':9}{error:.1e}")

from fastalign import _C

print(f"  torch {torch.__version__} with CUDA {torch.version.cuda}, "
      f"Python {sys.version.split()[0]}, {_C.cpu_isa()}; kernels: {_C.build_info()}")
if "--cuda" in sys.argv and not _C.cuda_targets():
    agreed = False
    print("  nvcc was there, and the CUDA kernels are MISSING")
sys.exit(not agreed)
"""


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"error: {command[0]} ended with status {done.returncode}")


def build(folder: Path, under: str | None) -> Path:
    """The wheel of this checkout, built with the torch of this environment or another one."""
    python = Path(sys.executable)
    if under is not None:
        python = environment(folder / "builder", under)
        run(python, "-m", "pip", "-q", "install", "build", "setuptools>=77", "wheel", "ninja")
    run(python, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, release: str, wheel: Path | None = None) -> Path:
    """A new environment with one torch release, and the wheel; returns its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "-q", "--disable-pip-version-check", "install")
    if release == "current":
        import torch

        # As a plain entry of the path: the .pth files there, an editable fastalign among them,
        # take no effect, and what is installed into the environment itself comes first.
        (packages,) = folder.glob("lib/python*/site-packages")
        borrowed = Path(torch.__file__).resolve().parents[1]
        (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    else:
        run(*pip, f"torch=={release}", "numpy")
    if wheel is not None:
        run(*pip, "--no-deps", "--ignore-installed", wheel)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", default=["2.13.0", "current"])
    parser.add_argument("--wheel", type=Path, help="take this wheel instead of building one")
    parser.add_argument("--build-under", metavar="RELEASE", help="build with this torch")
    chosen = parser.parse_args()
    cuda = ["--cuda"] if shutil.which(os.environ.get("NVCC", "nvcc")) else []
    if cuda:
        os.environ.setdefault("FASTALIGN_BUILD_CUDA", "1")
    failed = []
    with tempfile.TemporaryDirectory(prefix="fastalign-") as name:
        folder = Path(name)
        wheel = chosen.wheel or build(folder / "dist", chosen.build_under)
        with zipfile.ZipFile(wheel) as archive:
            library = hashlib.sha256(archive.read("fastalign/_C.abi3.so")).hexdigest()
        print(f"{wheel.name}, library {library[:16]}", flush=True)
        for number, release in enumerate(chosen.releases):
            python = environment(folder / f"environment{number}", release, wheel)
            print(f"torch {release}:", flush=True)
            command = [python, "-I", "-c", CHECK, *cuda]
            done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                failed.append(release)
    print(f"failed under torch {', '.join(failed)}" if failed else "one wheel serves them all")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
