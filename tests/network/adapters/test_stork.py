"""Peculiar to stork: a model runs over a batch by itself, and a user may run it so."""

from typing import Any

import pytest
from torch import Tensor

import fluctua
from fluctua.network.replay import Replay
from shared.frameworks.stork import CASES


def test_a_run_that_the_user_writes_shows_the_same_state() -> None:
    def run(model: Any, x: Tensor) -> Any:
        return model.run(x)

    case = CASES.networks["recurrent"]
    (model, _), x = case.initialised(), case.batch()
    ours, theirs = fluctua.inspect(model, x), fluctua.inspect(model, x.transpose(0, 1), forward=run)
    assert [p.name for p in ours] == [p.name for p in theirs]
    for p, q in zip(ours, theirs, strict=True):
        assert p.mu_u == pytest.approx(q.mu_u, abs=1e-3 * q.sigma_u)
        assert p.sigma_u == pytest.approx(q.sigma_u, rel=1e-3)


def test_a_record_that_grows_is_no_state_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Replay, kept: Any) -> Any:
        raise AssertionError("an answer from memory was copied")

    monkeypatch.setattr(Replay, "_copy", refused)
    case = CASES.networks["recurrent"]
    fluctua.initialize(case.model(), case.batch(), seed=0, **case.options)
