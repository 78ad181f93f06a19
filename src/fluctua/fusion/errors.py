"""What is raised where a model cannot be fused."""


class FuseError(ValueError):
    """The model cannot run on fused loops; the message names the module and the reason.

    Example:
        >>> import torch, fluctua
        >>> fluctua.fuse(torch.nn.Linear(3, 2), torch.rand(10, 4, 3))
        Traceback (most recent call last):
        fluctua.fusion.errors.FuseError: no neuron of a known framework in the model: ...
    """


class Changed(FuseError):
    """What neurons hear is not computed as at the first step.

    Attributes:
        name: of their module.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
