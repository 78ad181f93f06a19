"""Triton kernels of the gpu engine, interpreted or compiled for a GPU that need not be there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import triton

from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.derivation import Kind, plan_of
from fluctua.timeloop.gpu_source import Heard, kernel


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Let the gpu engine run its kernels in Triton's interpreter, on CPU tensors."""
    patch.setenv("TRITON_INTERPRET", "1")


@contextmanager
def compiling(folder: str) -> Iterator[None]:
    """Inside the block kernels are compiled, with Triton's cache in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", folder)
        patch.setenv("TRITON_INTERPRET", "0")
        yield


def compilable(dynamics: Dynamics, dtype: str = "float32", heard: Heard = "nothing") -> tuple[Any, Any]:
    """Both directions of a population, which asks for the gradients of all its constants that require one."""
    plan = plan_of(Kind.of("gpu", dynamics, trains=True, recurrent=int(heard != "nothing")))
    forward, backward = (kernel(way, dtype, heard, interpreted=False) for way in (plan.forth, plan.back))
    return forward.call, backward.call


def machine_code(
    kernel: Any, dtype: str, options: Mapping[str, object], size: str = "i32", warps: int = 4
) -> Mapping[str, str]:
    """Triton's stages of a kernel for an H100, which need no such device. A size may be 1, a constant to Triton."""
    names = kernel.arg_names
    integers = {"steps", "columns", "neurons", "earlier", "first", "samples", "split"}
    integers |= {"places", "across", "high", "wide"}
    pointers = [name for name in names if name not in integers and name not in options]
    sizes = [p.name for p in kernel.params if p.name in integers and not p.do_not_specialize]
    values = options if size != "1" else {**options, **dict.fromkeys(sizes, 1)}
    types = {name: "constexpr" if name in values else "i32" for name in names}
    types |= {name: size for name in sizes if name not in values} | dict.fromkeys(pointers, f"*{dtype}")
    source = triton.compiler.ASTSource(kernel, types, {(names.index(name),): value for name, value in values.items()})
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    stages: Mapping[str, str] = triton.compile(source, target, {"num_warps": warps, "enable_fp_fusion": False}).asm
    return stages
