"""Memory that is used again: never twice at once, never more than the limit, from any thread."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fluctua.timeloop.cpu_loop import Pool

MEGA = 1 << 20


@pytest.fixture
def pool() -> Pool:
    return Pool(limit=16 * MEGA)


def test_memory_comes_back_when_the_last_view_is_gone(pool: Pool) -> None:
    tensor = pool.empty((4 * MEGA,), torch.int16)
    address, view = tensor.data_ptr(), tensor[5:7]
    assert (pool.lent, pool.waiting) == (8 * MEGA, 0)
    del tensor
    assert pool.empty((4 * MEGA,), torch.int16).data_ptr() != address
    view.fill_(3)
    del view
    assert pool.lent == 0
    again = [pool.empty((2, MEGA), torch.float32) for _ in range(2)]  # of the same size, in another shape and type
    assert address in [tensor.data_ptr() for tensor in again]
    assert pool.waiting == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3,), (3, 5, 70_001)], ids=str)
def test_tensors_have_their_shape_and_start_with_a_cache_line(
    pool: Pool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = pool.empty(shape, dtype)
    assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert tensor.data_ptr() % 64 == 0
    assert tensor.fill_(7).sum() == 7 * tensor.numel()


def test_no_more_waits_than_the_limit(pool: Pool) -> None:
    tensors = [pool.empty((MEGA * k,), torch.float32) for k in (1, 1, 2, 1, 2)]
    assert pool.lent == 28 * MEGA
    tensors.clear()
    gc.collect()
    assert (pool.lent, pool.waiting <= 16 * MEGA) == (0, True)
    pool.clear()
    assert pool.waiting == 0


def test_a_pool_that_is_busy_is_not_waited_for(pool: Pool) -> None:
    with pool._lock:
        tensor = pool.empty((MEGA,), torch.float32)
        del tensor
        assert pool.waiting == 0
    tensor = pool.empty((MEGA,), torch.float32)
    del tensor
    assert pool.waiting == 4 * MEGA


def test_threads_never_get_the_same_memory(pool: Pool) -> None:
    def held_alone(number: int) -> bool:
        for _ in range(20):
            tensor = pool.empty((MEGA // 4,), torch.float32).fill_(number)
            if not bool((tensor == number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as workers:
        assert all(workers.map(held_alone, range(8)))
