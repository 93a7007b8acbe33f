"""A Zarr store that is written during a run: it is complete or absent, and damage or strangers are errors for readers."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from store_runs import SIDE, in_child, killed_at_work, layout

from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.integrity import check
from piadm_hpc.store.packs import records
from piadm_hpc.store.provenance import global_attributes
from piadm_hpc.store.reading import open_run

ROWS = 4  # samples of a Zarr shard in these tests


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_ROWS", ROWS)


def values(ids: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.stack([np.random.default_rng((seed, sample)).standard_normal(SIDE).astype(np.float32) for sample in ids])


def take(folder: Path, count: int, seed: int = 0, *, size: int = 3, **options: Any) -> Store:
    config = {"seed": seed}
    attributes = global_attributes(config, model_sha256="abc", title="t", source="s", seed=seed, command="c")
    given: dict[str, Any] = {"config": config, "attributes": attributes, "form": "zarr"} | options
    return Store.create(folder, layout=layout(), samples=range(count), shard_size=size, **given)


def draw(store: Store, seed: int = 0, *, join: bool = True) -> None:
    """Do what a run does: set damaged files aside, draw what is missing and pack meanwhile, then join."""
    store.set_aside(store.damaged())
    for ids in store.missing():
        store.write(ids, {"u": values(ids, seed)}, {"seed": np.full(len(ids), seed), "sweeps": np.ones((len(ids), 2), int)})
        store.compact()
    if join:
        store.join(keep_current=True)


def run(folder: Path, count: int = 10, seed: int = 0, **options: Any) -> None:
    with take(folder, count, seed, **options) as store:
        draw(store, seed)


def assert_holds(folder: Path, count: int, seed: int = 0) -> None:
    assert check(folder, deep=True).ok, check(folder, deep=True)
    with open_run(folder) as dataset:
        assert dataset["realization"].values.tolist() == list(range(count))
        np.testing.assert_array_equal(dataset["u"].values, values(range(count), seed))
        assert (dataset["seed"].values == seed).all() and dataset["sweeps"].dims == ("realization", "block")


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "samples.zarr/u/c").glob("*/0"))


def test_a_run_is_one_lazy_store_with_consolidated_metadata(tmp_path: Path) -> None:
    run(tmp_path)
    assert_holds(tmp_path, 10)
    assert len(shards(tmp_path)) == 3 and not (tmp_path / "samples.h5").exists()
    words = json.loads((tmp_path / "samples.zarr/zarr.json").read_text())
    assert "u" in words["consolidated_metadata"]["metadata"] and words["zarr_format"] == 3
    plain = xr.open_zarr(tmp_path / "samples.zarr")
    assert plain["u"].chunks == ((1,) * 10, (SIDE,)) and plain["u"].attrs["units"] == "m s-1"
    np.testing.assert_array_equal(plain["u"].values, values(range(10)))
    with open_run(tmp_path, chunks={}) as lazy:
        assert lazy["u"].chunks == ((1,) * 10, (SIDE,))
    assert open_run(tmp_path, dialect="member")["u"].dims == ("member", "x")
    left = sorted(path.name for path in (tmp_path / "shards").glob("*.h5"))
    assert left == ["samples_00000006_00000009.h5", "samples_00000009_00000010.h5"], "full Zarr shards leave the journal"


def test_it_is_written_while_the_run_goes_on_by_several_writers(tmp_path: Path) -> None:
    with take(tmp_path, 22) as store:
        given: dict[str, Any] = {"layout": layout(), "samples": range(22), "shard_size": 3, "attributes": store.attributes}
        others = [Store.attach(tmp_path, form="zarr", **given) for _ in range(3)]
        seen = []
        for number, ids in enumerate(store.missing()):
            costs = {"seed": np.zeros(len(ids), int), "sweeps": np.ones((len(ids), 2), int)}
            others[number % 3].write(ids, {"u": values(ids)}, costs)
            store.compact()
            seen.append(len(shards(tmp_path)))
            assert store.num_drawn(set(range(22))) == ids[-1] + 1 and set(store.absent()) == set(range(ids[-1] + 1, 22))
            np.testing.assert_array_equal(store.read([ids[-1], 0])["u"], values([ids[-1], 0]))
        assert seen == [0, 1, 2, 3, 3, 4, 5, 5] and len(list((tmp_path / "shards").glob("*.h5"))) <= 2
        store.join()
    assert_holds(tmp_path, 22)


def test_more_samples_are_appended_and_rows_stay(tmp_path: Path) -> None:
    run(tmp_path, 6)
    with open_run(tmp_path) as before:
        run(tmp_path, 13)
        np.testing.assert_array_equal(before["u"][:4].values, values(range(4)))
    assert_holds(tmp_path, 13)
    run(tmp_path, 2)
    assert_holds(tmp_path, 13)


def test_a_journal_in_hdf5_becomes_a_store(tmp_path: Path) -> None:
    run(tmp_path, 5, form="hdf5")
    before = [open_run(tmp_path), xr.open_dataset(tmp_path / "samples.h5")]
    in_child(lambda: run(tmp_path, 9))
    assert_holds(tmp_path, 9)
    assert not (tmp_path / "samples.h5").exists()
    for dataset in before:  # the index names shards that no longer exist
        with pytest.raises((StoreError, OSError, RuntimeError)):
            dataset["u"].values  # noqa: B018 (reading is the point)
    with pytest.raises(StoreError, match="holds a Zarr store; set output"):
        take(tmp_path, 9, form="hdf5")


def test_joining_without_the_model(tmp_path: Path) -> None:
    run(tmp_path, 8)
    shutil.rmtree(tmp_path / "samples.zarr/x")
    assert "samples.zarr/x/" in check(tmp_path).problems[0]
    with Store.existing(tmp_path) as store:
        store.join()
        with pytest.raises(StoreError, match="`piadm export` makes one file"):
            store.join(True)
    assert_holds(tmp_path, 8)


def test_writers_killed_at_any_moment(tmp_path: Path) -> None:
    dice, kept = Random(3), 0
    for number in range(8):
        place = tmp_path / ("shards", "samples.zarr", "packed")[number % 3]
        killed_at_work(lambda: run(tmp_path, 30), place, 0.02 * dice.random())
        kept += len(shards(tmp_path))
    assert kept, "no kill met a writer at work"
    run(tmp_path, 30)
    assert_holds(tmp_path, 30)
    assert not list((tmp_path / "samples.zarr").glob("*.partial")) and not list((tmp_path / "packed").glob("*.partial"))


# harm


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def link(path: Path) -> None:
    shutil.move(path, path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def unfinish(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]


def lead_elsewhere(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["packs"] = str(file.attrs["packs"]).replace("u/c/0", "../u/c/0")


SHARD, RECORD = "samples.zarr/u/c/0/0", "packed/samples_00000000_00000004.h5"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((SHARD, harm) for harm in (flip, truncate, link, Path.unlink)),
        *((RECORD, harm) for harm in (truncate, unfinish, lead_elsewhere, Path.unlink)),
        *((f"samples.zarr/{name}", flip) for name in ("zarr.json", "x/c/0", "sweeps/c/0/0")),
        *((f"samples.zarr/{name}", Path.unlink) for name in ("zarr.json", "u/zarr.json", "x/c/0", "sweeps/c/0/0")),
        ("packed/published.json", truncate),
    ],
)
def test_damage_is_noticed_and_healed(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    run(tmp_path)
    harm(tmp_path / name)
    assert not check(tmp_path, deep=True).ok
    if harm is not flip or name != SHARD:
        with pytest.raises(StoreError):
            open_run(tmp_path)
    else:  # found by its checksum when it is read
        with open_run(tmp_path) as dataset, pytest.raises(ValueError, match="checksum"):
            dataset["u"].values  # noqa: B018 (reading is the point)
    run(tmp_path)
    assert_holds(tmp_path, 10)


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b" / RECORD, tmp_path / "a" / RECORD)
    shutil.copy(tmp_path / "b" / SHARD, tmp_path / "a" / SHARD)
    with pytest.raises(StoreError, match=r"packed/samples_00000000_00000004\.h5: seed: 1 there, 0 here"):
        take(tmp_path / "a", 10)
    with pytest.raises(StoreError, match="seed: 1 there, 0 here"):
        open_run(tmp_path / "a")


def rewrite_in_place(folder: Path) -> None:
    """Write other bytes under the same inodes, as when a file system gives the inode of a removed file to the next one."""
    for path in shards(folder):
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "change", [lambda folder: run(folder, 10, 1, overwrite=True), lambda folder: shutil.rmtree(folder), rewrite_in_place]
)
def test_an_open_dataset_is_right_or_fails(tmp_path: Path, change: Callable[[Path], None]) -> None:
    run(tmp_path / "run")
    opened = [open_run(tmp_path / "run"), open_run(tmp_path / "run", chunks={})]
    change(tmp_path / "run")
    for dataset in opened:
        with pytest.raises(StoreError, match="was rewritten or removed after this dataset was opened"):
            dataset["u"].values  # noqa: B018 (reading is the point)


def test_an_open_dataset_may_be_touched(tmp_path: Path) -> None:
    """Users touch files to keep them from being purged."""
    run(tmp_path)
    with open_run(tmp_path) as dataset:
        for path in shards(tmp_path):
            os.utime(path, (0, 0))
        np.testing.assert_array_equal(dataset["u"].values, values(range(10)))


def test_what_a_store_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="row r of a Zarr store is sample r"):
        Store.create(tmp_path, layout=layout(), samples=[3, 4], shard_size=2, config={}, attributes={}, form="zarr")
    with pytest.raises(StoreError, match="give hdf5 or zarr"):
        take(tmp_path, 3, form="netcdf")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(StoreError, match=r"needs zarr: pip install 'piadm_hpc\[zarr\]'"):
        take(tmp_path, 3)
