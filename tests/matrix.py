"""Runs the conformance tests on versions of TensorFlow between those that `make test` has.

    python tests/matrix.py [VERSION ...] [--keras VERSION] [--python PROGRAM]

For each version, with one environment at a time: installs TensorFlow, both Keras it can use and
keras_norms with its compiled library, runs `CONFORMANCE` on each Keras, and prints the row of the
table in docs/installing.md. Environments are in build/matrix and are removed afterwards.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from custom_ops.tensorflow_package import RELEASES, minor_of  # noqa: E402

# A few minutes that tell whether a version is fit for use.
CONFORMANCE = (
    "tests/conformance",
    "tests/layers/test_batch_normalization.py::test_golden_vectors",
    "tests/layers/test_batch_normalization.py::test_exact_at_any_offset",
    "tests/layers/test_batch_normalization.py::test_second_order_gradients",
    "tests/layers/test_sync_batch_normalization.py::test_any_split_equals_the_whole",
    "tests/layers/test_losses_of_replicas.py",
    "tests/ops/test_native_ops.py::test_absent_operands",
    "tests/test_versions.py",
)
HEAD = (
    "| Python | TensorFlow | Keras | tests passed | jit | native | error at 1e6 with XLA |",
    "|---|---|---|--:|---|---|--:|",
)


def main():
    options = parsed()
    print(*HEAD, sep="\n", flush=True)
    failed = False
    for version in options.versions:
        folder = ROOT / "build" / "matrix" / minor_of(version)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            python = install(folder, version, options)
            for is_legacy in (False,) if version.startswith("2.15") else (False, True):
                failed |= not tested(python, is_legacy)
        finally:
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
    sys.exit(failed)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("versions", nargs="*", help="such as 2.18 or 2.18.0; all by default")
    parser.add_argument("--keras", help="the version of Keras 3; the newest that fits by default")
    parser.add_argument("--python", default=sys.executable, help="what makes the environments")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    options = parser.parse_args()
    for version in options.versions:
        if minor_of(version) not in RELEASES:
            parser.error(f"a version must be one of {', '.join(RELEASES)}. Received: {version!r}.")
    options.versions = [RELEASES.get(v, v) for v in options.versions or RELEASES]
    return options


def install(folder, version, options):
    """Returns the Python of a new environment."""
    start = time.monotonic()
    run([options.python, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    packages = [f"tensorflow=={version}", "setuptools>=77"]
    if options.keras:
        packages.append(f"keras=={options.keras}")
    if not version.startswith("2.15"):
        packages.append(f"tf_keras=={minor_of(version)}.*")
    pip = [python, "-m", "pip", "install", "-q", "--no-compile"]
    run([*pip, *packages])
    environment = {"KERAS_NORMS_BUILD_NATIVE": "require", "KERAS_NORMS_BUILD_CUDA": "skip"}
    run([*pip, "--no-build-isolation", "-e", f"{ROOT}[test]"], **environment)
    report(f"TensorFlow {version} is installed, {time.monotonic() - start:.0f} s")
    return python


def tested(python, is_legacy):
    """Runs the tests on one Keras and prints their row; returns whether they passed."""
    environment = {
        "TF_USE_LEGACY_KERAS": "1" if is_legacy else "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_NORMS_TEST_NATIVE": "require",
    }
    start = time.monotonic()
    report_command = [python, "-m", "tests.version_report"]
    found = json.loads(run(report_command, **environment).stdout.splitlines()[-1])
    command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "--durations=5"]
    result = run([*command, *CONFORMANCE], must_succeed=False, **environment)
    print(row(found, result.stdout), flush=True)
    report(f"{time.monotonic() - start:.0f} s")
    if result.returncode:
        report(result.stdout[-6000:])
    return result.returncode == 0


def row(found, output):
    """The row of the table, from what `tests.version_report` and pytest printed."""
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", output)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    keras, native = found["keras"], found["native"]
    cells = (
        found["python"],
        found["tensorflow"],
        f"{keras['distribution']} {keras['version']}",
        f"{counts.get('passed', 0):,}" + (f", {failed} failed" if failed else ""),
        {"ffi": "the same kernels", "hlo": "HLO", None: "plain TensorFlow"}[native["xla"]],
        "yes" if native["available"] else native["reason"],
        ", ".join(f"{error:.1e}" for error in found["far_from_zero"].values()),
    )
    return "| " + " | ".join(cells) + " |"


def run(command, must_succeed=True, **environment):
    given = {**os.environ, **environment}
    result = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    if must_succeed and result.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{(result.stdout + result.stderr)[-4000:]}"
        )
    return result


def report(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
