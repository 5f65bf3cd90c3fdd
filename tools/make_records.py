"""Checks again what tests/records does not hold of the present sources, and writes docs/kernels.md.

Minutes of compilers: machine code and proofs of the CUDA kernels, the Triton kernels for GPUs that
are not here and in the interpreter, broken kernels that must be caught, sanitizers, race detector.
"""

from __future__ import annotations

import argparse
import sys
import time

from cuda_compile.page import PAGE, page
from records.checks import CHECKS
from records.store import StaleRecord, Unavailable, changes, make, read


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(check.name for check in CHECKS)
    parser.add_argument("check", nargs="*", help=f"of {names} (default: all)")
    parser.add_argument("--all", action="store_true", help="check what is up to date too")
    parser.add_argument("--list", action="store_true", help="say what is not, and check nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.check) - {check.name for check in CHECKS})
    if unknown:
        parser.error(f"there is no check {unknown[0]!r}: use {names}")
    return options


def main() -> int:
    options = _parse()
    chosen = [check for check in CHECKS if not options.check or check.name in options.check]
    failed = False
    for check in chosen:
        if options.list:
            try:
                entries = read(check)
            except StaleRecord:
                entries = {}
            for unit in check.units():
                for why in changes(check, unit, entries):
                    failed = True
                    print(f"{check.name}, {unit}: {why}")
            continue
        start = time.monotonic()
        try:
            done = make(check, options.all, say=lambda text: print(text, flush=True))
        except Unavailable as reason:
            print(f"error: {check.name}: {reason}", file=sys.stderr)
            failed = True
            continue
        if done:
            print(f"{check.name}: {time.monotonic() - start:.0f} s", flush=True)
    if not options.list:
        try:
            PAGE.write_text(page(), encoding="utf-8")
        except StaleRecord as reason:
            print(f"{PAGE.name} is as it was: {reason}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
