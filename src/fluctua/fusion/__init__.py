"""Models of other frameworks, unchanged, on fluctua's loops over time."""

from fluctua.fusion.errors import FuseError
from fluctua.fusion.model import FusedModel, fuse
from fluctua.fusion.report import FuseReport

__all__ = ["FuseError", "FuseReport", "FusedModel", "fuse"]
