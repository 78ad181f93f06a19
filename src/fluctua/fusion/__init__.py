"""Models of other frameworks, unchanged, on fluctua's loops over time."""

from fluctua.fusion.errors import FuseError
from fluctua.fusion.model import fuse

__all__ = ["FuseError", "fuse"]
