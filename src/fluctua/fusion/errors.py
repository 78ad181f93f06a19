"""What is raised where a model cannot be fused."""


class FuseError(ValueError):
    """The model cannot run on fused loops; the message names the module and the reason.

    Attributes:
        changed: name of neurons for which it does not compute what they hear as at the first step, if that is it.

    Example:
        >>> import torch, fluctua
        >>> fluctua.fuse(torch.nn.Linear(3, 2), torch.rand(10, 4, 3))
        Traceback (most recent call last):
        fluctua.fusion.errors.FuseError: no neuron of a known framework in the model: ...
    """

    changed: str | None = None
