"""Statistics of members equal those of xarray in any order, and count each member once in spite of kills and damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from store_runs import killed_at_work, layout

from piadm_hpc.schema.layout import Coordinate
from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.integrity import check
from piadm_hpc.store.reading import open_run
from piadm_hpc.store.statistics import sums
from piadm_hpc.store.statistics.output import ERROR
from piadm_hpc.store.statistics.reading import open_statistics
from piadm_hpc.store.statistics.recipe import NEEDS, Recipe

SIDE, LEVELS = 40, (0.05, 0.5, 0.9)
KINDS = tuple(NEEDS)
TRUTH = np.linspace(278, 283, SIDE, dtype=np.float32)
EDGES = np.repeat(280 + 5 * np.linspace(-4, 4, 41, dtype=np.float32)[:, None], SIDE, axis=1)
ATTRIBUTES = {"model_sha256": "abc", "title": "members"}


def values(ids: Sequence[int]) -> np.ndarray:
    """Fields [S, SIDE] computed from the ids: about 280 with a spread of 5; one point is always 280, another has ties."""
    rows = np.stack([np.random.default_rng(sample).standard_normal(SIDE) for sample in ids])
    rows[:, 3], rows[:, 4] = 0.0, np.round(rows[:, 4])
    return (280 + 5 * rows).astype(np.float32)


def recipe(kinds: Sequence[str] = KINDS, **changes: Any) -> Recipe:
    given: dict[str, Any] = {"quantiles": LEVELS, "thresholds": {"u": (280.0, 290.0)}, "edges": {"u": EDGES}}
    given |= {"truth": {"u": TRUTH[None]}, "exact": 16}
    return Recipe(layout(SIDE), tuple(kinds), **(given | changes))


def take(folder: Path, samples: Sequence[int], *, members: bool = False, size: int = 12, **changes: Any) -> Store:
    """The store of a run that counts its members."""
    options = {key: changes.pop(key) for key in ("overwrite", "config", "attributes") if key in changes}
    config, attributes = options.pop("config", {"seed": 1}), options.pop("attributes", ATTRIBUTES)
    return Store.create(
        folder, layout=layout(SIDE), samples=samples, shard_size=size, config=config, attributes=attributes, members=members,
        statistics=recipe(**changes), **options,
    )  # fmt: skip


def draw(store: Store, order: Callable[[list[Any]], Any] = list) -> None:
    """Do what a run does: set damaged files aside, draw what is missing, and join."""
    store.set_aside(store.damaged())
    for ids in order(store.missing()):
        store.write(ids, {"u": values(ids)}, {"seed": np.full(len(ids), 1), "converged": np.ones(len(ids), int)})
    store.join(keep_current=True)


def run(folder: Path, samples: Sequence[int] = range(30), **changes: Any) -> xr.Dataset:
    with take(folder, samples, **changes) as store:
        draw(store)
    return opened(folder)


def opened(folder: Path) -> xr.Dataset:
    with open_statistics(folder) as dataset:
        return dataset.load()


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "statistics").glob("samples_*.h5"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The statistics of thirty members in one call."""
    return run(tmp_path_factory.mktemp("whole"))


# values


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("count", [1, 16])
def test_statistics_of_few_members_are_those_of_xarray(tmp_path: Path, members: bool, count: int) -> None:
    found = run(tmp_path, range(count), members=members)
    stored = xr.DataArray(values(range(count)), dims=("realization", "x")).astype(float)
    for name, expected in {
        "mean": stored.mean("realization"),
        "std": stored.std("realization"),
        "min": stored.min("realization"),
        "max": stored.max("realization"),
        "quantile": stored.quantile(LEVELS, "realization"),
    }.items():
        np.testing.assert_allclose(found[f"u_{name}"].values, expected.values, rtol=1e-12, atol=1e-11)
    above = [(stored > level).mean("realization").values for level in (280, 290)]
    np.testing.assert_allclose(found["u_exceedance"].values, above, atol=1e-12)
    counts = [np.histogram(column, [-np.inf, *EDGES[:, 0], np.inf])[0] for column in stored.values.T]
    assert np.array_equal(found["u_histogram"].values.T, counts)
    assert int(found["num_members"]) == count and found["realization"].values.tolist() == list(range(count))
    assert found["converged"].values.all() and found["u_mean"].attrs["units"] == "m s-1"
    assert found["u_quantile"].attrs[ERROR] == 0


def test_scores_are_those_of_their_definitions(whole: xr.Dataset, tmp_path: Path) -> None:
    """The fair CRPS is computed from all pairs of members and ranks by counting; with bins the score is within its bound."""
    members = values(range(30)).astype(float)
    pairs = np.abs(members[:, None] - members[None]).sum((0, 1)) / (30 * 29)
    expected = np.abs(members - TRUTH).mean(0) - pairs / 2
    exact = run(tmp_path, exact=30)
    np.testing.assert_allclose(exact["u_crps"].values, expected, atol=1e-10)
    error = np.abs(whole["u_crps"].values - expected).max()
    assert 0 < error <= whole["u_crps"].attrs[ERROR] < 1.0
    below = (members < TRUTH).sum(0)
    free = (members == TRUTH).sum(0) == 0
    assert np.array_equal(whole["u_rank"].values[free], below[free])
    assert whole["u_rank_histogram"].sum() == SIDE and whole.sizes["rank"] == 31


def test_quantiles_of_many_members_are_within_their_bound(whole: xr.Dataset) -> None:
    expected = np.quantile(values(range(30)).astype(float), LEVELS, axis=0)
    error = np.abs(whole["u_quantile"].values - expected).max()
    assert 0 < error <= whole["u_quantile"].attrs[ERROR] <= 1.01  # the width of a bin is a fifth of the spread, which is 5
    assert (whole["u_quantile"].values[:, 3] == 280).all()


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    gap = np.arange(SIDE) < 2
    with take(tmp_path, range(20), gaps={"u": gap}, edges={"u": np.where(gap, np.nan, EDGES)}) as store:
        for ids in store.missing():
            fields = np.where(gap, np.nan, values(ids)).astype(np.float32)
            store.write(ids, {"u": fields}, {}, allow_nan={"u": gap})
        store.join()
    found = opened(tmp_path)
    for name in ("mean", "std", "min", "quantile", "exceedance", "crps", "rank"):
        assert np.isnan(found[f"u_{name}"].values[..., :2]).all() and np.isfinite(found[f"u_{name}"].values[..., 2:]).all(), name
    assert found["u_rank_histogram"].sum() == SIDE - 2


def test_sums_do_not_depend_on_the_order_and_variances_do_not_cancel() -> None:
    generator = np.random.default_rng(0)
    numbers = 1e6 + generator.standard_normal((500, 7)) * 10.0 ** generator.integers(-6, 4, (500, 1))
    expected = [np.sum(np.sort(column)) for column in numbers.T]
    totals = []
    for order in (np.arange(500), generator.permutation(500)):
        total, squares = sums.zero((7,)), sums.zero((7,))
        for row in numbers[order]:
            sums.add(total, row)
            sums.add(squares, np.float64(np.float32(row)) ** 2)
        totals.append(total)
    assert np.array_equal(totals[0].sum(0), totals[1].sum(0))
    np.testing.assert_allclose(totals[0].sum(0), expected, rtol=1e-14)
    whole_numbers = np.array([[1e8 + 1], [1e8 + 2], [1e8 + 3]])
    total, squares = sums.zero((1,)), sums.zero((1,))
    for row in whole_numbers:
        sums.add(total, row)
        sums.add(squares, row * row)
    # the squares of these numbers exceed 2^53, and each is rounded by less than one
    assert abs(float(sums.variance(total, squares, 3)[0]) - 2 / 3) < 1.0
    small = np.array([[2.0**20 + k] for k in range(3)])
    total, squares = sums.zero((1,)), sums.zero((1,))
    for row in small:
        sums.add(total, row)
        sums.add(squares, row * row)
    assert float(sums.variance(total, squares, 3)[0]) == 2 / 3


# faults


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("order", [list, reversed])
def test_batches_and_their_order_do_not_matter(tmp_path: Path, whole: xr.Dataset, size: int, order: Callable[[Any], Any]) -> None:
    with take(tmp_path, range(30), size=size) as store:
        draw(store, order)
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())
    assert len(parts(tmp_path)) == 1


def test_several_writers_count_each_member_once(tmp_path: Path, whole: xr.Dataset) -> None:
    with take(tmp_path, range(30), size=3) as store:
        others = [Store.attach(tmp_path, layout=layout(SIDE), samples=range(30), shard_size=3, attributes=ATTRIBUTES,
                               statistics=recipe(), members=False) for _ in range(3)]  # fmt: skip
        for number, ids in enumerate(store.missing()):
            others[number % 3].write(ids, {"u": values(ids)}, {"seed": np.full(len(ids), 1), "converged": np.ones(len(ids), int)})
        assert len(parts(tmp_path)) == 3 and store.num_drawn(set(range(30))) == 30 and store.absent() == ()
        store.join()
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


def test_more_members_and_single_ones_are_added(tmp_path: Path, whole: xr.Dataset) -> None:
    run(tmp_path, [7, 20])
    run(tmp_path, range(12), members=True)
    assert check(tmp_path).ok and (tmp_path / "samples.h5").exists()
    run(tmp_path, range(30))
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())
    with Store.existing(tmp_path) as store:
        (tmp_path / "statistics.h5").unlink()
        store.join()
        assert store.absent() == ()
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


def test_statistics_are_added_to_a_run_that_stored_its_members(tmp_path: Path, whole: xr.Dataset) -> None:
    given: dict[str, Any] = {"config": {"seed": 1}, "attributes": ATTRIBUTES}
    with Store.create(tmp_path, layout=layout(SIDE), samples=range(30), shard_size=4, **given) as store:
        draw(store)
    run(tmp_path, members=True)
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


def test_writers_killed_at_any_moment(tmp_path: Path, whole: xr.Dataset) -> None:
    dice, left, before = Random(2), 0, 0

    def write() -> None:
        with take(tmp_path, range(30), size=2) as store:
            draw(store)

    for _ in range(8):
        killed_at_work(write, tmp_path / "statistics", 0.02 * dice.random())
        left += len(parts(tmp_path)) + len(list((tmp_path / "statistics").glob("*.partial")))
    with take(tmp_path, range(30), size=2) as store:
        before = 30 - sum(map(len, store.missing()))
        draw(store)
    assert left, "no kill met a writer at work"
    print(f"8 kills left {left} files and {before} of 30 members")
    assert check(tmp_path, deep=True).ok
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


def test_a_kill_between_a_merge_and_its_deletions_counts_nobody_twice(tmp_path: Path, whole: xr.Dataset) -> None:
    with take(tmp_path, range(30)) as store:
        store.write(range(10), {"u": values(range(10))}, {"seed": np.full(10, 1), "converged": np.ones(10, int)})
        shutil.copytree(tmp_path / "statistics", tmp_path / "old")
        draw(store)
    for path in (tmp_path / "old").glob("samples_*.h5"):
        shutil.copy(path, tmp_path / "statistics")
    assert len(parts(tmp_path)) == 2
    run(tmp_path)
    assert len(parts(tmp_path)) == 1
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


def test_a_part_that_overlaps_another_is_set_aside(tmp_path: Path, whole: xr.Dataset) -> None:
    run(tmp_path / "a", range(20))
    run(tmp_path / "b", range(15, 30))
    shutil.copy(parts(tmp_path / "b")[0], tmp_path / "a/statistics")
    run(tmp_path / "a")
    assert len(list((tmp_path / "a/statistics").glob("*.overlapping"))) == 1
    xr.testing.assert_identical(opened(tmp_path / "a").drop_attrs(), whole.drop_attrs())


# harm


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def unfinish(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]


def flip_a_bit_of_a_sum(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["state/0/u/sum"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 17] ^= 4
    path.write_bytes(content)


def external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["state/0/u/sum"]
        file["state/0/u/sum"] = h5py.ExternalLink("/dev/null", "u")


def lose_a_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["state/0"]


HARMS = [truncate, unfinish, flip_a_bit_of_a_sum, external_link, lose_a_group, Path.unlink]


@pytest.mark.parametrize(
    ("harm", "members"), [*((harm, False) for harm in HARMS), (flip_a_bit_of_a_sum, True), (lose_a_group, True)]
)
def test_a_damaged_part_is_noticed_and_counted_anew(
    tmp_path: Path, whole: xr.Dataset, harm: Callable[[Path], None], members: bool
) -> None:
    run(tmp_path, members=members)
    harm(parts(tmp_path)[0])
    assert not check(tmp_path, deep=True).ok
    assert run(tmp_path, members=members).sizes["realization"] == 30
    assert check(tmp_path, deep=True).ok
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


@pytest.mark.parametrize("harm", [truncate, Path.unlink, lambda path: path.write_bytes(b"x" * 3000)])
@pytest.mark.parametrize("name", ["statistics.h5", "statistics/recipe.h5"])
def test_a_damaged_file_of_statistics_is_written_anew(
    tmp_path: Path, whole: xr.Dataset, harm: Callable[[Path], None], name: str
) -> None:
    run(tmp_path)
    harm(tmp_path / name)
    if name == "statistics.h5":
        with pytest.raises(StoreError, match=r"statistics\.h5"):
            open_statistics(tmp_path)
    run(tmp_path)
    assert check(tmp_path, deep=True).ok
    xr.testing.assert_identical(opened(tmp_path).drop_attrs(), whole.drop_attrs())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"config": {"seed": 2}}, "seed: 2 there, 1 here"),
        ({"attributes": ATTRIBUTES | {"model_sha256": "other"}}, "model_sha256: 'other' there"),
    ],
)
def test_a_part_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    given = {"attributes": ATTRIBUTES | {"piadm_config": '{"seed": 1}'}}
    if "config" in other:
        other = {"config": {"seed": 2}, "attributes": ATTRIBUTES | {"piadm_config": '{"seed": 2}'}}
    run(tmp_path / "a", **given)
    run(tmp_path / "b", range(30, 34), **other)
    stranger = parts(tmp_path / "b")[0]
    shutil.copy(stranger, tmp_path / "a/statistics")
    with pytest.raises(StoreError, match="of another") as caught:
        take(tmp_path / "a", range(34), **given)
    assert words in str(caught.value)
    assert any(words in problem for problem in check(tmp_path / "a").problems)


def test_members_counted_otherwise_are_refused_or_counted_anew(tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(StoreError, match="counted with other settings of \\[statistics\\]"):
        take(tmp_path / "a", range(30), kinds=("mean",))
    assert run(tmp_path / "a", quantiles=(0.25,)).sizes["quantile"] == 1  # computed from the same sums
    run(tmp_path / "b", members=True)
    found = run(tmp_path / "b", members=True, kinds=("mean",))
    assert {str(name) for name in found.data_vars} == {"u_mean", "num_members", "seed", "converged"}
    np.testing.assert_allclose(found["u_mean"].values, values(range(30)).astype(float).mean(0), rtol=1e-12)


def test_overwriting_a_run_forgets_its_statistics(tmp_path: Path) -> None:
    run(tmp_path, range(30))
    assert run(tmp_path, range(3), overwrite=True, config={"seed": 2}).sizes["realization"] == 3


def test_a_run_of_statistics_alone_says_so(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(StoreError, match=r"holds statistics, and no samples; open them with .*statistics=True"):
        open_run(tmp_path)
    with pytest.raises(StoreError, match="holds no statistics"):
        open_statistics(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="neither samples nor statistics"):
        Store.create(
            tmp_path, layout=layout(SIDE), samples=[0], shard_size=1, config={}, attributes={}, statistics=None, members=False
        )
    shutil.move(tmp_path / "statistics.h5", tmp_path.parent / "statistics.h5")
    assert open_statistics(tmp_path.parent / "statistics.h5").sizes["realization"] == 30
    with take(tmp_path, range(40)) as store:
        store.join()
    assert "10 of the 40 samples asked for are not counted (30-39)" in check(tmp_path).problems[0]


# groups


def test_members_of_several_groups_are_counted_apart(tmp_path: Path) -> None:
    """Member m of condition k has the number 3 m + k; parts of few groups are not merged with large parts after each batch."""
    groups = {"condition": Coordinate(("condition",), np.array(["a", "b", "c"], dtype=object))}
    truth = np.stack([TRUTH, TRUTH + 1, TRUTH - 1])
    found = run(tmp_path, range(21), groups=groups, truth={"u": truth}, size=2)
    members = values(range(21)).reshape(7, 3, SIDE).astype(float)
    assert found["u_mean"].dims == ("condition", "x") and found["condition"].values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(found["u_mean"].values, members.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["u_std"].values, members.std(0), atol=1e-10)
    np.testing.assert_allclose(found["u_quantile"].values, np.quantile(members, LEVELS, axis=0).swapaxes(0, 1), rtol=1e-12)
    pairs = np.abs(members[:, None] - members[None]).sum((0, 1)) / (7 * 6)
    np.testing.assert_allclose(found["u_crps"].values, np.abs(members - truth).mean(0) - pairs / 2, atol=1e-10)
    assert found["num_members"].values.tolist() == [7, 7, 7]


def test_the_climatology_is_added_by_number_before_counting(tmp_path: Path) -> None:
    added = np.stack([np.full(SIDE, 100.0), np.full(SIDE, -50.0)]).astype(np.float32)
    found = run(tmp_path, range(8), kinds=("mean", "std"), added={"u": added}, rows=(0, 1), truth={})
    members = values(range(8)).astype(float) + added[np.arange(8) % 2]
    np.testing.assert_allclose(found["u_mean"].values, members.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["u_std"].values, members.std(0), rtol=1e-6)
