"""Which version of a framework is installed, and whether fluctua was tested with it."""

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version


def check_version(package: str, tested: str) -> None:
    """Warn once about a version other than the tested one."""
    found = _installed(package)
    if found is not None and found.split(".")[:2] != tested.split(".")[:2]:
        warn_of_version(package, found, tested)


@cache
def _installed(package: str) -> str | None:
    """The version of a package; None if it is not installed as a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def warn_of_version(package: str, found: str, tested: str) -> None:
    """Warn about a version other than the tested one."""
    warnings.warn(
        f"{package} {found} is not a version that fluctua was tested with ({tested}): check the report's mu_U and "
        "sigma_U before you rely on them",
        stacklevel=2,
    )
