"""Print the lowest versions that pyproject.toml allows: `numpy>=1.26` as `numpy==1.26.*`.

Usage: lowest_versions.py PYPROJECT [EXTRA...]
"""

import sys
import tomllib

from packaging.requirements import Requirement


def main(path, extras):
    """Print a line for each dependency of the package and of the extras."""
    with open(path, "rb") as file:
        project = tomllib.load(file)["project"]
    optional = project["optional-dependencies"]
    for text in project["dependencies"] + [text for extra in extras for text in optional[extra]]:
        requirement = Requirement(text)
        (lowest,) = [part.version for part in requirement.specifier if part.operator == ">="]
        print(f"{requirement.name}=={lowest if '.' in lowest else lowest + '.0'}.*")


main(sys.argv[1], sys.argv[2:])
