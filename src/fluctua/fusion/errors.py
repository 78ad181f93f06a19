"""The error of a model that cannot be fused."""


class FuseError(ValueError):
    """The model cannot run on fused loops; the message names the module and the reason.

    Attributes:
        changed: name of the neurons whose input is computed differently after the first step, if that is the reason.

    Example:
        >>> import torch, fluctua
        >>> fluctua.fuse(torch.nn.Linear(3, 2), torch.rand(10, 4, 3))
        Traceback (most recent call last):
        fluctua.fusion.errors.FuseError: no neuron of a known framework in the model: ...
    """

    changed: str | None = None
