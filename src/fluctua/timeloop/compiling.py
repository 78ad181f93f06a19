"""What `torch.compile` is told about the loops."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Let `torch.compile` call the function when it compiles and take the result for a constant."""
    # What `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
