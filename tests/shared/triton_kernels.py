"""Triton kernels of the gpu engine, interpreted or compiled for a GPU that need not be there."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import triton

from fluctua import timeloop
from fluctua.timeloop import gpu, gpu_recurrent

_NAMES = "gpu_kernels", "gpu_recurrent_kernels"


def kernels(interpreted: bool) -> dict[str, ModuleType]:
    """The kernels' modules anew: Triton decides at definition whether it will compile or interpret a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpreted)))
        for name in _NAMES:
            patch.delitem(sys.modules, f"{timeloop.__name__}.{name}", raising=False)
        for name in _NAMES:  # importing sets the attribute too, which is to be as before
            patch.setattr(timeloop, name, None, raising=False)
        modules = {name: import_module(f"{timeloop.__name__}.{name}") for name in _NAMES}
        for name in _NAMES:
            del sys.modules[f"{timeloop.__name__}.{name}"]
    return modules


_INTERPRETED = kernels(interpreted=True)


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Let the gpu engine run its kernels in Triton's interpreter, on CPU tensors."""
    patch.setattr(gpu, "kernels", _INTERPRETED["gpu_kernels"])
    patch.setattr(gpu_recurrent, "kernels", _INTERPRETED["gpu_recurrent_kernels"])


@contextmanager
def compiling(folder: str) -> Iterator[None]:
    """Inside the block kernels are compiled, with Triton's cache in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", folder)
        patch.setenv("TRITON_INTERPRET", "0")
        yield


def machine_code(
    kernel: Any, pointers: int, dtype: str, options: Mapping[str, object], size: str = "i32", warps: int = 4
) -> Mapping[str, str]:
    """Triton's stages of a kernel for an H100, which need no such device. A size may be 1, a constant to Triton."""
    names = kernel.arg_names
    sizes = [p.name for p in kernel.params[pointers : len(names) - len(options)] if not p.do_not_specialize]
    values = options if size != "1" else {**options, **dict.fromkeys(sizes, 1)}
    types = {name: "constexpr" if name in values else "i32" for name in names}
    types |= {name: size for name in sizes if name not in values} | dict.fromkeys(names[:pointers], f"*{dtype}")
    source = triton.compiler.ASTSource(kernel, types, {(names.index(name),): value for name, value in values.items()})
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    stages: Mapping[str, str] = triton.compile(source, target, {"num_warps": warps, "enable_fp_fusion": False}).asm
    return stages
