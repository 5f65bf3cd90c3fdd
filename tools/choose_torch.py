"""Which torch the set-up installs, as arguments of ``pip install`` on standard output.

    python -m pip install $(python tools/choose_torch.py)

With a GPU, and on systems other than Linux, torch as pip finds it. On Linux without a GPU a build
without CUDA, which takes a fifth of the room: from PyTorch's own index of such builds, else one
that pip's sources hold beside the others, else torch as pip finds it, with a note. ``--gpu`` only
says whether there is a GPU: exit status 1 and an error where there is none.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Sequence

from native_build.cuda import gpus

# https://pytorch.org/get-started/locally/ names it.
INDEX = "https://download.pytorch.org/whl/cpu"
RANGE = "torch>=2.11,<3"  # a test compares it with pyproject.toml
LOWEST, BELOW = (2, 11), (3,)
PLAIN = [RANGE, "torchvision"]
_PATIENCE = 5.0


def answers(index: str) -> bool:
    """Whether an index of packages can be reached and has torch."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=_PATIENCE) as page:
            return b".whl" in page.read()
    except (OSError, ValueError):
        return False


def versions_of_pip() -> str:
    """What pip says about the versions of torch that its sources hold for this Python."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    command += ["--timeout", str(_PATIENCE), "--retries", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def newest_without_cuda(said: str) -> str | None:
    """The newest release marked ``+cpu`` that the project can use, of pip's list."""
    found = [
        (tuple(map(int, number.split("."))), f"{number}+cpu")
        for number in re.findall(r"(?<![\w.])(\d+(?:\.\d+)+)\+cpu\b", said)
    ]
    fitting = [entry for entry in found if LOWEST <= entry[0] < BELOW]
    return max(fitting)[1] if fitting else None


def choose(platform: str, capabilities: Sequence[str]) -> tuple[list[str], str]:
    """pip's arguments, and why they are these."""
    if capabilities:
        return PLAIN, f"a GPU of capability {', '.join(capabilities)}: torch with CUDA"
    if platform != "linux":
        return PLAIN, "torch as pip finds it"
    if answers(INDEX):
        return ["--index-url", INDEX, *PLAIN], f"no GPU: torch without CUDA from {INDEX}"
    version = newest_without_cuda(versions_of_pip())
    if version is not None:
        return [f"torch=={version}", "torchvision"], f"no GPU: torch {version} from pip's sources"
    return PLAIN, (
        f"no GPU, but {INDEX} does not answer and pip's sources hold no build without CUDA: torch "
        "as pip finds it, about 5 GB; TORCH=... of make names another"
    )


def main() -> int:
    capabilities = gpus()
    if "--gpu" in sys.argv[1:]:
        if not capabilities:
            print(
                "error: NVIDIA's driver finds no GPU here; GPU_CHECK_ARGS='--device cpu' tries the "
                "check itself",
                file=sys.stderr,
            )
        return not capabilities
    arguments, why = choose(sys.platform, capabilities)
    print(f"fastalign: {why}", file=sys.stderr)
    print(" ".join(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
