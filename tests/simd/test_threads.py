"""Work split over threads: OpenMP's, or where those cannot be had, others."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
import torch

from fluctua.simd import threads
from fluctua.simd.threads import Blocks, over_samples

SAMPLES = 103


@pytest.fixture(autouse=True, params=["torch's threads", "others"])
def two_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "others":
        monkeypatch.setattr(threads, "_parallel", lambda: None)
    elif threads._parallel() is None:
        pytest.skip("torch has no OpenMP here that runs a function of ours")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield request.param
    torch.set_num_threads(before)


def squares(blocks: Blocks) -> list[int]:
    return [k * k for first, stop in blocks for k in range(first, stop)]


def test_every_sample_is_done_once_and_results_come_in_their_order() -> None:
    parts = over_samples(squares, SAMPLES, block=7)
    assert len(parts) == 2
    assert list(chain(*parts)) == [k * k for k in range(SAMPLES)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_any_thread_reaches_the_caller(error: type[BaseException]) -> None:
    def work(blocks: Blocks) -> None:
        if blocks[-1][-1] == SAMPLES:
            raise error("the last share")

    with pytest.raises(error, match="the last share"):
        over_samples(work, SAMPLES, block=7)
    assert list(chain(*over_samples(squares, SAMPLES, block=7))) == [k * k for k in range(SAMPLES)]


def test_work_may_call_torch_record_no_graph_and_split_itself() -> None:
    x = torch.randn(SAMPLES, 300, requires_grad=True)

    def work(blocks: Blocks) -> torch.Tensor:
        ((first, stop),) = blocks
        inner = over_samples(squares, stop - first, block=7)
        assert list(chain(*inner)) == [k * k for k in range(stop - first)]
        return x[first:stop] @ x.t()

    found = torch.cat(over_samples(work, SAMPLES, block=SAMPLES))
    assert not found.requires_grad
    torch.testing.assert_close(found, (x @ x.t()).detach())


def test_threads_of_the_user_may_split_work_at_the_same_time() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: over_samples(squares, SAMPLES, block=7), range(64)))
    assert all(list(chain(*parts)) == [k * k for k in range(SAMPLES)] for parts in found)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the threads of a process in a folder")
def test_torch_and_ours_share_their_threads(two_threads: str) -> None:
    def count() -> int:
        return len(os.listdir(Path("/proc/self/task")))

    torch.randn(2_000_000).exp()
    before = count()
    over_samples(squares, SAMPLES, block=7)
    assert count() - before <= (0 if two_threads == "torch's threads" else 2)
