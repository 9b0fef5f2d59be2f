"""Third-party weights by name: where they are, what they are, whose they are.

A reference says where a file comes from:

* ``package:<package>/<path>``: inside an installed package;
* ``file:<path>``: on this machine.
"""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from infra.errors import BadValue, BadWeights


def locate(reference: str) -> Path:
    """Return the local path of a weight reference.

    Raises:
        BadValue: The reference has no known scheme, or names a package that is not installed.
        BadWeights: There is no such file.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "file":
        path = Path(rest).expanduser()
    elif scheme == "package":
        package, _, inside = rest.partition("/")
        # find_spec does not run the package: some need modules that they do not declare.
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise BadValue("weights", reference, f"install {package!r}, it carries the file.")
        path = Path(spec.submodule_search_locations[0]) / inside
    else:
        raise BadValue("weights", reference, "begin with 'package:' or 'file:'.")
    if not path.exists():
        raise BadWeights(str(path), "does not exist", "Check the reference, or install it.")
    return path


@lru_cache(maxsize=64)
def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
