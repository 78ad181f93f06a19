"""Models of other frameworks, unchanged, on fluctua's loops over time."""

from fluctua.fusion.errors import FuseError
from fluctua.fusion.model import FusedModel, fuse

__all__ = ["FuseError", "FusedModel", "fuse"]
