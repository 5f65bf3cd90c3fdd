"""Changes the sources in small ways, one at a time, and counts the changes that tests catch.

    python tools/mutants.py --count 300 --out mutants.json
    python tools/mutants.py --replay mutants.json --out after.json   # the same ones, other tests

A test suite is worth what it catches. One run under coverage says which tests run which line;
then each mutant of the sample is put into a copy of the project and the tests of its line are run,
the shortest first, until one fails. With ``--all`` they go on, so that the result names the tests
that some mutant is caught by alone. C++ files (``--paths csrc/cpu``) are compiled again for each
mutant and tried by ``tests/native`` and ``tests/ops``. Needs ``pip install pytest-cov``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
from collections import Counter
from pathlib import Path

from mutation import cpp_source, python_source
from mutation.coverage_map import CoverageMap
from mutation.python_source import Mutant
from mutation.workshop import Workshop

ROOT = Path(__file__).resolve().parent.parent
NATIVE_TESTS = ["tests/native", "tests/ops"]
CAUGHT = ("failed", "time")


def sample(workshop: Workshop, paths: list[str], count: int, seed: int) -> list[Mutant]:
    """Mutants drawn at random from all of the files below ``paths``."""
    found: list[Mutant] = []
    for path in paths:
        start = workshop.copy / path
        files = [start] if start.is_file() else sorted(start.rglob("*"))
        for file in files:
            name = file.relative_to(workshop.copy).as_posix()
            if file.suffix == ".py":
                found += python_source.mutants(name, workshop.source(name))
            elif file.suffix in (".cpp", ".h"):
                found += cpp_source.mutants(name, workshop.source(name))
    return random.Random(seed).sample(found, min(count, len(found)))


def tests_of(mutant: Mutant, coverage: CoverageMap, budget: float) -> list[str]:
    if mutant.file.startswith("csrc/"):
        return NATIVE_TESTS
    # Triton's interpreter compiles a kernel's text again, so that its lines count as not run.
    last = mutant.line + mutant.text.count("\n")
    file = mutant.file.replace("kernels/", "fastalign/kernels/", 1)
    chosen = coverage.tests(mutant.file, mutant.line, last, budget)
    return chosen or coverage.tests(file, mutant.line, last, budget)


def summary(results: list[dict]) -> str:
    """Caught and all mutants for each folder, and the ones that nothing caught."""
    tried = [r for r in results if r["outcome"] != "refused"]
    total: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    for result in tried:
        folder = result["file"].rsplit("/", 1)[0]
        total[folder] += 1
        caught[folder] += result["outcome"] in CAUGHT
    lines = [f"{caught[f]:4d} of {total[f]:4d}  {f}" for f in sorted(total)]
    lines.append(f"{sum(caught.values()):4d} of {sum(total.values()):4d}  in all")
    lines += [
        f"not caught ({r['outcome']}): {r['mutant']}" for r in tried if r["outcome"] not in CAUGHT
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="mutants to try (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--paths", nargs="+", default=["fastalign", "kernels"])
    parser.add_argument("--tests", nargs="+", default=["tests"], help="the tests to judge (tests)")
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests a mutant (30)")
    parser.add_argument("--all", action="store_true", help="go on after the first failure")
    parser.add_argument("--coverage", type=Path, help="coverage map, made if it is not there")
    parser.add_argument("--replay", type=Path, help="try the mutants of an earlier result")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    if importlib.util.find_spec("pytest_cov") is None:
        parser.error("pytest-cov is not installed; install it with: pip install pytest-cov")

    workshop = Workshop(ROOT)
    try:
        if options.replay:
            earlier = json.loads(options.replay.read_text())["results"]
            chosen = [Mutant(**{k: r[k] for k in Mutant.__annotations__}) for r in earlier]
        else:
            chosen = sample(workshop, options.paths, options.count, options.seed)
        if options.coverage and options.coverage.exists():
            coverage = CoverageMap.load(options.coverage)
        elif any(m.file.endswith(".py") for m in chosen):
            coverage = CoverageMap.record(workshop.copy, options.tests, workshop.environment)
            if options.coverage:
                coverage.save(options.coverage)
        else:
            coverage = CoverageMap({}, {})
        results = []
        for index, mutant in enumerate(chosen):
            tests = tests_of(mutant, coverage, options.budget)
            outcome, failed = "not run", []
            if tests:
                outcome, failed = workshop.attempt(mutant, tests, coverage, not options.all)
            result = {k: getattr(mutant, k) for k in Mutant.__annotations__}
            result |= {"mutant": str(mutant), "outcome": outcome, "failed": failed}
            result |= {"tests": len(tests)}
            results.append(result)
            print(f"{index + 1}/{len(chosen)} {outcome}: {mutant}", flush=True)
            # As it goes: a run over hours may be ended early.
            options.out.write_text(json.dumps({"results": results}, indent=1))
    finally:
        workshop.close()
    print(summary(results))
    if options.all:
        alone = Counter(r["failed"][0] for r in results if len(r["failed"]) == 1)
        print(f"{len(alone)} tests were the only one to catch a mutant:")
        print("\n".join(f"{count:4d}  {test}" for test, count in alone.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
