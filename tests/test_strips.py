"""Sweeps work on strips of coordinates and on views of states; neither may show in what they compute."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from problems import F64, chains, mixture, solve, start

from piadm_hpc.solvers import strips
from piadm_hpc.solvers.distribution import evenly
from piadm_hpc.solvers.tables import Tables
from piadm_hpc.theory.bases import EOF, Fourier, Identity, Pixelwise
from piadm_hpc.theory.process import OU

PROCESS, SAMPLES = OU(), [0, 3, 4]


def test_strips_cover_all_coordinates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, n, room in ((1, 1, 1), (3, 7, 16), (2, 1000, 512), (5, 12, 10**6), (0, 9, 64)):
        monkeypatch.setattr(strips, "BYTES", room)
        covered = [i for strip in strips.strips(torch.zeros(rows, n)) for i in range(n)[strip]]
        assert covered == list(range(n))


def test_only_evenly_spaced_positions_are_a_slice() -> None:
    for positions in ([4], [0, 1, 2], [3, 5, 7, 9], [1, 2, 4], [0, 2, 3], [2, 5, 8, 10]):
        found = evenly(torch.tensor(positions))
        assert torch.arange(12)[found].tolist() == positions
        even = len({b - a for a, b in pairwise(positions)}) <= 1
        assert isinstance(found, slice) == even


@pytest.mark.parametrize("kept", [True, False])
def test_rows_of_tables_are_the_expanded_ones(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piadm_hpc.solvers.tables.KEPT", 2**21 if kept else 0)
    modes = torch.linalg.qr(torch.randn(6, 2, dtype=F64))[0]
    for basis in (Identity((6,)), Pixelwise((6,)), EOF(modes, (6,)), Fourier((6,))):
        table = torch.randn(5, basis.num_shells, 2, 2, dtype=F64)
        points = [1, 2, 4]
        rows = Tables(basis, table, points, torch.zeros(1, dtype=F64))
        whole = basis.expand(table[points].movedim(1, -1)).movedim(-1, 1)
        for local in (slice(0, 3), slice(0, 3, 2), torch.tensor([2, 0, 0])):
            for strip in (slice(None), slice(2, 5)):
                expected = whole[local] if whole.shape[1] == 1 else whole[local][:, strip]
                assert torch.equal(rows.rows(local, strip), expected)
        assert torch.equal(rows.at(1, slice(None)), whole[1])


@pytest.mark.parametrize("settings", [{}, {"window": 4}, {"alternate": True}, {"in_flight": 2}, {"model_batch": 5}], ids=str)
@pytest.mark.parametrize("name", ["gaussian sde", "dpmpp-2m"])
def test_samples_do_not_depend_on_strips(name: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    target = mixture(PROCESS)
    chain = chains(PROCESS, target.reference(), steps=17)[name]
    x0, noise = start(PROCESS, chain, SAMPLES)
    given = {"tol": 1e-6, "noise": noise, "samples": SAMPLES, "reference": target.reference(), **settings}
    whole = solve(chain, target.score, x0, **given)
    monkeypatch.setattr(strips, "BYTES", 64)
    cut = solve(chain, target.score, x0, **given)
    assert torch.equal(whole.x, cut.x) and torch.equal(whole.calls, cut.calls)
    assert torch.allclose(whole.residual, cut.residual, rtol=1e-6)


def test_a_score_that_works_in_place_does_not_change_the_states() -> None:
    target = mixture(PROCESS)
    chain = chains(PROCESS, target.reference(), steps=17)["gaussian sde"]
    x0, noise = start(PROCESS, chain, SAMPLES)

    def in_place(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        score = target.score(x.clone(), t)
        return x.copy_(score)

    given = {"tol": 1e-6, "noise": noise, "samples": SAMPLES, "reference": target.reference()}
    assert torch.equal(solve(chain, in_place, x0, **given).x, solve(chain, target.score, x0, **given).x)
