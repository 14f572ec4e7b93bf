"""Check what `python -m build` made: an sdist of every source, nothing generated; a wheel complete and small.

Usage: check_distributions.py CHECKOUT SDIST WHEEL
"""

import sys
import tarfile
import zipfile
from pathlib import Path

LARGEST_WHEEL = 2_000_000  # bytes
TOP_LEVEL = {
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "pyproject.toml",
    "setup.py",
}


def files(checkout, folder):
    """Return the paths of all files of one folder of the checkout."""
    return {
        path.relative_to(checkout).as_posix() for path in (checkout / folder).rglob("*") if path.is_file()
    }


def main(checkout, sdist, wheel):
    """Return a list of what is wrong."""
    wrong = []
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())

    package = files(checkout, "src")
    wanted = TOP_LEVEL.union(
        package, *(files(checkout, folder) for folder in ("pyx", "tests", "benchmarks", "docs", "examples"))
    )
    wrong += [f"the sdist lacks {name}" for name in sorted(wanted - in_sdist)]
    wrong += [
        f"the sdist holds {name}" for name in sorted(in_sdist) if name.endswith((".c", ".so", ".o", ".pyc"))
    ]
    wrong += [
        f"the wheel lacks {name}"
        for name in sorted({name.removeprefix("src/") for name in package} - in_wheel)
    ]
    wrong += [
        f"the wheel holds {name}" for name in sorted(in_wheel) if name.endswith((".c", ".h", ".pyx", ".pyc"))
    ]
    modules = {Path(name).name.partition(".")[0] for name in in_wheel if name.endswith((".so", ".pyd"))}
    if not {"_cpu", "_kernels"} <= modules:
        wrong.append(f"the wheel lacks compiled modules; it has {sorted(modules)}")
    size = Path(wheel).stat().st_size
    if size >= LARGEST_WHEEL:
        wrong.append(f"the wheel is {size} bytes, expected fewer than {LARGEST_WHEEL}")
    print(f"sdist: {len(in_sdist)} files, {Path(sdist).stat().st_size} bytes")
    print(f"wheel: {len(in_wheel)} files, {size} bytes")
    return wrong


if __name__ == "__main__":
    problems = main(Path(sys.argv[1]), *sys.argv[2:])
    sys.exit("\n".join(problems) if problems else 0)
