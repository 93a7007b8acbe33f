"""Folders that are harmed between or during calls lose no samples, and never contain samples of another run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from store_runs import SIDE, in_child, layout

from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.integrity import check
from piadm_hpc.store.provenance import global_attributes
from piadm_hpc.store.reading import open_run
from piadm_hpc.store.retired import reason_of
from piadm_hpc.store.settings import RUN_FILE

ENGINES = ("h5netcdf", "netcdf4")


def values(seed: int, ids: Sequence[int]) -> np.ndarray:
    """Fields [S, SIDE] that depend on the seed and the sample id alone."""
    return np.stack([np.random.default_rng((seed, sample)).standard_normal(SIDE).astype(np.float32) for sample in ids])


def take(folder: Path, samples: Sequence[int], seed: int = 0, *, size: int = 2, tol: float = 1e-2, **options: Any) -> Store:
    """The store of a run with a configuration in the form of a run.toml."""
    config = {"seed": seed, "samples": len(samples), "solver": {"tol": tol}}
    model = options.pop("model", "abc")
    attributes = global_attributes(config, model_sha256=model, title="t", source="s", seed=seed, command="c")
    given = {"config": config, "attributes": attributes, "independent": frozenset({"samples"})}
    return Store.create(folder, layout=layout(), samples=samples, shard_size=size, **given, **options)


def draw(store: Store, seed: int = 0, *, join: bool = True) -> None:
    """Do what a run does: set damaged shards aside, store what is missing, and join."""
    store.set_aside(store.damaged())
    for ids in store.missing():
        store.write(ids, {"u": values(seed, ids)}, {"seed": np.full(len(ids), seed)})
        store.compact(6)
    if join:
        store.join(keep_current=True)


def run(folder: Path, samples: Sequence[int] = range(8), seed: int = 0, **options: Any) -> list[Path]:
    with take(folder, samples, seed, **options) as store:
        draw(store, seed)
    return sorted((folder / "shards").glob("samples_*.h5"))


def assert_holds(folder: Path, ids: Sequence[int], seed: int = 0) -> None:
    assert check(folder, deep=True).problems == ()
    with open_run(folder) as dataset:
        assert dataset["realization"].values.tolist() == list(ids)
        np.testing.assert_array_equal(dataset["u"].values, values(seed, ids))
        assert set(dataset["seed"].values.tolist()) == {seed}


# shards of other runs


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, "seed: 1 there, 0 here"),
        ({"tol": 0.5}, "solver.tol: 0.5 there, 0.01 here"),
        ({"model": "other"}, "model_sha256: 'other' there"),
        ({"seed": 1, "tol": 0.5}, "seed: 1 there, 0 here; solver.tol: 0.5 there, 0.01 here"),
    ],
)
@pytest.mark.parametrize("place", ["in place of one", "beside them"])
def test_a_shard_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any], words: str, place: str) -> None:
    shards = run(tmp_path / "a")
    ids = range(8) if place == "in place of one" else range(8, 10)
    (*_, stranger) = run(tmp_path / "b", ids, **other)
    shutil.copy(stranger, shards[0].parent)
    with pytest.raises(StoreError, match=r"of another (run|configuration)") as caught:
        take(tmp_path / "a", range(10))
    assert words in str(caught.value)
    with pytest.raises(StoreError, match="of another run"):
        Store.existing(tmp_path / "a")
    assert any(stranger.name in problem and words.split(":")[0] in problem for problem in check(tmp_path / "a").problems)
    (shards[0].parent / stranger.name).unlink()
    run(tmp_path / "a")
    assert_holds(tmp_path / "a", range(8))


def test_a_folder_whose_configuration_was_rewritten_is_refused(tmp_path: Path) -> None:
    """Not run.toml decides, but the configuration that every shard names."""
    run(tmp_path)
    path = tmp_path / RUN_FILE
    path.write_text(path.read_text().replace("seed = 0", "seed = 7"))
    with pytest.raises(StoreError, match=r"holds shards of another run:\n  shards/.*seed: 0 there, 7 here"):
        take(tmp_path, range(8), 7)
    assert "seed: 0 there, 7 here" in " ".join(check(tmp_path).problems)


def test_messages_about_strangers_are_short(tmp_path: Path) -> None:
    run(tmp_path / "a", range(2))
    for shard in run(tmp_path / "b", range(2, 30), 1, size=1):
        shutil.copy(shard, tmp_path / "a/shards")
    with pytest.raises(StoreError) as caught:
        take(tmp_path / "a", range(30))
    assert len(str(caught.value).splitlines()) < 10 and " more" in str(caught.value)


def test_a_mixed_index_does_not_open(tmp_path: Path) -> None:
    """The index was made from shards of two runs by other software."""
    shards = run(tmp_path / "a")
    theirs = run(tmp_path / "b", range(8), 1)
    size = shards[1].stat().st_size
    shutil.copy(theirs[1], shards[1])
    with h5py.File(tmp_path / "a/samples.h5", "r+") as file:
        file.attrs["shards"] = str(file.attrs["shards"]).replace(str(size), str(shards[1].stat().st_size))
    with pytest.raises(StoreError, match="seed: 1 there, 0 here"):
        open_run(tmp_path / "a")


# shards that are lost or damaged


def test_a_shard_lost_while_others_are_drawn_is_drawn_again(tmp_path: Path) -> None:
    with take(tmp_path, range(8)) as store:
        draw(store, join=False)
        (tmp_path / "shards/samples_00000002_00000004.h5").unlink()
        assert store.absent() == (2, 3) and store.missing() == [(2, 3)]
        draw(store)
        assert store.absent() == ()
    assert_holds(tmp_path, range(8))


def test_samples_that_were_requested_and_are_missing_are_reported(tmp_path: Path) -> None:
    with take(tmp_path, range(8)) as store:
        draw(store, join=False)
        (tmp_path / "shards/samples_00000002_00000004.h5").unlink()
        store.join()
    assert "2 of the 8 samples asked for are missing (2-3)" in check(tmp_path).problems[0]
    with Store.existing(tmp_path) as store:
        assert store.absent() == (2, 3)
    run(tmp_path)
    assert_holds(tmp_path, range(8))


def test_a_request_for_other_samples_does_not_forget_earlier_ones(tmp_path: Path) -> None:
    shards = run(tmp_path)
    shards[1].unlink()
    run(tmp_path, [42])
    assert_holds(tmp_path, [*range(8), 42])
    run(tmp_path, range(3))
    assert_holds(tmp_path, [*range(8), 42])


def test_a_smaller_request_replaces_a_larger_one_that_was_not_begun(tmp_path: Path) -> None:
    take(tmp_path, range(1000)).close()
    run(tmp_path, range(4))
    assert_holds(tmp_path, range(4))


def flip_a_bit_of_the_field(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["u"].id.get_chunk_info(0)
    _flip(path, chunk.byte_offset + chunk.size // 2)


def flip_a_bit_of_the_costs(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["seed"].id.get_chunk_info(0)
    _flip(path, chunk.byte_offset + 1)


def _flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 4]))


def zero_the_end(path: Path) -> None:
    """Write zeros over the end, as a full disk or an incomplete, padded copy leaves it."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size * 3 // 4)
        file.write(bytes(size - size * 3 // 4))


def missing_values_appear(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["u"][0, 3] = np.nan


@pytest.mark.parametrize("harm", [flip_a_bit_of_the_field, flip_a_bit_of_the_costs, zero_the_end, missing_values_appear])
def test_a_damaged_shard_is_noticed_when_a_run_continues(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    shards = run(tmp_path)
    harm(shards[1])
    run(tmp_path)  # asks for nothing new
    assert shards[1].with_name(shards[1].name + ".damaged").exists()
    assert_holds(tmp_path, range(8))


def test_ranks_share_the_reading_of_shards(tmp_path: Path) -> None:
    shards = run(tmp_path, range(12))
    flip_a_bit_of_the_field(shards[4])
    with take(tmp_path, range(12)) as store:
        found = [store.damaged(rank, 4) for rank in range(4)]
    assert found == [[shards[4]], [], [], []]


# data elsewhere


def external_link(path: Path, secret: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["u"]
        file["u"] = h5py.ExternalLink(str(secret), "u")


def nested_link(path: Path, secret: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("more")["u"] = h5py.ExternalLink(str(secret), "u")


def external_storage(path: Path, secret: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["u"]
        file.create_dataset("u", shape=(2, SIDE), dtype="f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(path: Path, secret: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["u"]
        layout = h5py.VirtualLayout((2, SIDE), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "u", shape=(2, SIDE))
        file.create_virtual_dataset("u", layout)


@pytest.mark.parametrize("harm", [external_link, nested_link, external_storage, virtual_dataset])
def test_data_in_other_files_are_not_followed(tmp_path: Path, harm: Callable[[Path, Path], None]) -> None:
    secret = run(tmp_path / "secret", range(2), 5)[0]
    shards = run(tmp_path / "a")
    harm(shards[1], secret)
    with h5py.File(tmp_path / "a/samples.h5", "r+") as file:  # only the link is wrong
        sizes = {f"shards/{path.name}": path.stat().st_size for path in shards}
        file.attrs["shards"] = json.dumps(sizes)
    problems = check(tmp_path / "a").problems
    assert len(problems) == 1 and "other files are not followed" in problems[0], problems
    with pytest.raises(StoreError, match="are not followed"):
        open_run(tmp_path / "a")
    with pytest.raises(StoreError, match="are not followed"):
        open_run(shards[1])
    run(tmp_path / "a")
    assert_holds(tmp_path / "a", range(8))


@pytest.mark.parametrize("name", ["{secret}", "../secret/shards/samples_00000000_00000002.h5", "shards/../../x.h5"])
def test_an_index_leads_to_its_own_folder_only(tmp_path: Path, name: str) -> None:
    secret = run(tmp_path / "secret", range(2), 5)[0]
    run(tmp_path / "a", range(2))
    with h5py.File(tmp_path / "a/samples.h5", "r+") as file:
        file.attrs["shards"] = json.dumps({name.format(secret=secret): 1})
    with pytest.raises(StoreError, match="is no shard of this folder, and is not followed"):
        open_run(tmp_path / "a")


def test_an_index_whose_field_leads_elsewhere(tmp_path: Path) -> None:
    secret = run(tmp_path / "secret", range(2), 5)[0]
    run(tmp_path / "a", range(2))
    with h5py.File(tmp_path / "a/samples.h5", "r+") as file:
        del file["u"]
        elsewhere = h5py.VirtualLayout((2, SIDE), "f4")
        elsewhere[:] = h5py.VirtualSource(str(secret), "u", shape=(2, SIDE))
        file.create_virtual_dataset("u", elsewhere)
    with pytest.raises(StoreError, match=r"u leads to .*, which is not listed"):
        open_run(tmp_path / "a")


# datasets that are open


def open_datasets(folder: Path) -> Iterator[tuple[xr.Dataset, type[Exception] | tuple[type[Exception], ...]]]:
    """Open the samples with the package and with plain xarray; returns each with the error that a failing read raises."""
    for engine in ENGINES:
        yield open_run(folder, engine=engine), StoreError
        yield open_run(folder, engine=engine, chunks={}), StoreError
        yield xr.open_dataset(folder / "samples.h5", engine=engine), (OSError, RuntimeError)


def overwrite_by_another_seed(folder: Path) -> None:
    run(folder, range(8), 1, overwrite=True)


def merge(folder: Path) -> None:
    with Store.existing(folder) as store:
        store.merge(1)
        store.join()


def grow_until_shards_are_merged(folder: Path) -> None:
    run(folder, range(40))


def damage(folder: Path) -> None:
    flip_a_bit_of_the_field(sorted((folder / "shards").glob("samples_*.h5"))[0])
    with take(folder, range(8)) as store:
        store.set_aside(store.damaged())


@pytest.mark.parametrize("change", [overwrite_by_another_seed, merge, grow_until_shards_are_merged, damage])
def test_an_open_dataset_is_right_or_fails(tmp_path: Path, change: Callable[[Path], None]) -> None:
    run(tmp_path)
    opened = list(open_datasets(tmp_path))
    in_child(lambda: change(tmp_path))  # by another process
    failed = 0
    for dataset, kind in opened:
        try:
            found = dataset["u"].values
        except kind:
            failed += 1
        else:
            np.testing.assert_array_equal(found, values(0, range(8)))
        dataset.close()
    assert failed == len(opened), "shards that are gone cannot be read"


def test_an_open_dataset_says_why_it_fails_and_what_to_do(tmp_path: Path) -> None:
    run(tmp_path)
    with open_run(tmp_path) as dataset:
        overwrite_by_another_seed(tmp_path)
        for wanted in (0, slice(2, 4), [1, 6], np.array([3])):
            with pytest.raises(StoreError, match=r"was merged, rewritten or removed .*; open .*samples.h5 again"):
                dataset["u"][wanted].values  # noqa: B018 (reading is the point)
    assert_holds(tmp_path, range(8), 1)


def test_a_shard_lost_under_an_open_dataset_is_missed_by_its_own_samples_alone(tmp_path: Path) -> None:
    shards = run(tmp_path)
    with open_run(tmp_path) as dataset:
        shards[1].unlink()
        np.testing.assert_array_equal(dataset["u"][[0, 1, 4, 7]].values, values(0, [0, 1, 4, 7]))
        np.testing.assert_array_equal(dataset["u"].isel(realization=4, x=slice(3, 5)).values, values(0, [4])[0, 3:5])
        points = {"realization": xr.DataArray([0, 7], dims="p"), "x": xr.DataArray([5, 2], dims="p")}
        np.testing.assert_array_equal(dataset["u"].isel(points).values, values(0, [0, 7])[[0, 1], [5, 2]])
        with pytest.raises(StoreError, match=shards[1].name):
            dataset["u"][3].values  # noqa: B018 (reading is the point)


def test_the_same_command_again_leaves_an_open_dataset_alone(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "samples.h5").stat()
    with open_run(tmp_path) as dataset:
        run(tmp_path)
        np.testing.assert_array_equal(dataset["u"].values, values(0, range(8)))
    after = (tmp_path / "samples.h5").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_names_of_an_overwritten_run_are_not_used_again(tmp_path: Path) -> None:
    """Otherwise plain xarray, which still holds the old index, would read samples of the new run."""
    first = run(tmp_path)
    run(tmp_path, range(8), 1, overwrite=True)
    run(tmp_path, range(8), 2, overwrite=True)
    assert {reason_of(path) for path in first} == {"overwritten"}
    assert_holds(tmp_path, range(8), 2)


def test_stubs_are_removed_after_a_month(tmp_path: Path) -> None:
    first = run(tmp_path)
    run(tmp_path, range(8), 1, overwrite=True)
    for path in first:
        os.utime(path, (0, 0))
    run(tmp_path, range(8), 1)
    assert not any(path.exists() for path in first)
    assert_holds(tmp_path, range(8), 1)


# everything at once


def test_fifty_kills_and_attacks(tmp_path: Path) -> None:
    """Calls that draw, grow, merge and overwrite are killed at any moment, with harm between them; later calls repair it."""
    folder, dice = tmp_path / "run", Random(5)
    stranger = run(tmp_path / "stranger", range(30), 9, size=3)
    seed, wanted, kept, refused = 0, 12, 0, 0

    def call() -> None:
        run(folder, range(wanted), seed)

    def joined() -> None:
        call()
        merge(folder)

    def again() -> None:
        run(folder, range(wanted), seed, overwrite=True)

    for number in range(50):
        action = dice.choice([call, call, joined])
        if number % 10 == 9:
            seed, wanted, action = seed + 1, 12, again
        wanted = min(40, wanted + dice.randrange(4))
        in_child(action, kill_after=0.01 + 0.12 * dice.random())
        shards = [path for path in folder.glob("shards/samples_*.h5") if not reason_of(path)]
        if shards and action is not again:
            victim, harm = dice.choice(shards), dice.randrange(5)
            if harm == 0:
                victim.unlink()
            elif harm == 1:
                os.truncate(victim, victim.stat().st_size // 2)
            elif harm == 2:
                _flip(victim, dice.randrange(victim.stat().st_size))
            elif harm == 3:
                shutil.copy(dice.choice(stranger), victim)
        try:
            call()
        except StoreError as error:
            refused += 1
            assert "of another" in str(error) or "no readable run.toml" in str(error), error
            if "no readable" in str(error):  # killed while it was overwriting
                again()
            for path in folder.glob("shards/samples_*.h5"):
                if path.name in str(error):
                    path.unlink()
            try:
                call()
            except StoreError as left:
                assert "of another configuration" in str(left) and action is again
                again()
        kept += len(shards)
        assert_holds(folder, range(wanted), seed)
    print(f"50 kills: {kept} shards were there after them, {refused} calls were refused")
    assert kept and refused
