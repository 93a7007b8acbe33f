"""Damaged files, killed writers and foreign shards are reported, drawn again, and never read as missing values."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import h5py
import pytest
from store_runs import assert_holds, create, fill, in_child, run, values

from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.integrity import check
from piadm_hpc.store.reading import open_run


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def unfinish(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]


def replace_by_noise(path: Path) -> None:
    path.write_bytes(Random(0).randbytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [truncate, empty, zero, unfinish, replace_by_noise, Path.unlink])
def test_damaged_shard_is_reported_and_drawn_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    shards = run(tmp_path)
    harm(shards[1])
    report = check(tmp_path)
    assert len(report.problems) == 1 and shards[1].name in report.problems[0] and "piadm sample" in report.problems[0]
    with pytest.raises(StoreError, match=shards[1].name):
        open_run(tmp_path)
    with create(tmp_path, range(9)) as store:
        assert store.missing() == [(3, 4, 5)]
        fill(store)
    assert check(tmp_path, deep=True).ok
    assert_holds(tmp_path, range(9))


def test_damaged_index_is_written_anew(tmp_path: Path) -> None:
    run(tmp_path)
    truncate(tmp_path / "samples.h5")
    assert "piadm join" in check(tmp_path).problems[0]
    (tmp_path / "samples.h5").unlink()
    assert "has shards but no samples.h5; run `piadm join`" in check(tmp_path).problems[0]
    with Store.existing(tmp_path) as store:
        store.join()
    assert_holds(tmp_path, range(9))
    assert "holds no samples" in check(tmp_path / "nothing").problems[0]


def test_changed_bytes_are_found_by_the_deep_check(tmp_path: Path) -> None:
    shard, random = run(tmp_path)[1], Random(1)
    sound = shard.read_bytes()
    with h5py.File(shard) as file:
        chunk = file["u"].id.get_chunk_info(1)
    places = [chunk.byte_offset + 5, *(random.randrange(len(sound)) for _ in range(100))]
    found = 0
    for place in places:
        harmed = bytearray(sound)
        harmed[place] ^= 1 << random.randrange(8)
        shard.write_bytes(harmed)
        report = check(tmp_path, deep=True)
        found += not report.ok
        if report.ok:  # the byte was unused
            assert_holds(tmp_path, range(9))
        if place == places[0]:
            assert len(report.problems) == 1 and shard.name in report.problems[0]
            with open_run(tmp_path) as dataset, pytest.raises(OSError):
                dataset["u"].values  # noqa: B018 (reading is the point)
    assert found > 1


def test_moved_folder_and_lonely_index(tmp_path: Path) -> None:
    run(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    (tmp_path / "link.h5").symlink_to(tmp_path / "elsewhere/samples.h5")
    for path in ("elsewhere", "link.h5"):
        assert_holds(tmp_path / path, range(9))
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "elsewhere/samples.h5", tmp_path / "alone")
    report = check(tmp_path / "alone")
    assert len(report.problems) == 1 and "copy that folder beside it" in report.problems[0]
    with pytest.raises(StoreError, match=r"none of its 3 shards is in .*--copy"):
        open_run(tmp_path / "alone")


def test_extra_shards_are_reported(tmp_path: Path) -> None:
    run(tmp_path)
    with create(tmp_path, range(12)) as store:
        store.write([9, 10], values([9, 10]), {})
    shutil.copy(tmp_path / "shards/samples_00000000_00000003.h5", tmp_path / "shards/samples_again.h5")  # it does no harm
    (tmp_path / "shards/samples_00000011_00000012.h5").write_bytes(b"not HDF5")
    problems = check(tmp_path).problems
    assert len(problems) == 2 and "holds 2 samples that the index does not have: run `piadm join`" in problems[0]
    assert "is damaged and not part of the index" in problems[1]
    assert_holds(tmp_path, range(9))  # the samples of the index can be read meanwhile


def test_another_runs_shard_under_a_known_name(tmp_path: Path) -> None:
    with create(tmp_path / "a", range(9), compression="none") as store:  # this gives all shards the same size
        fill(store)
    shards = sorted((tmp_path / "a/shards").iterdir())
    shutil.copy(shards[2], shards[1])
    assert "holds other samples than the index says" in check(tmp_path / "a").problems[0]
    run(tmp_path / "b", side=32)
    shutil.copy(tmp_path / "b/shards" / shards[1].name, shards[1])
    with (
        Store.existing(tmp_path / "a") as store,
        pytest.raises(StoreError, match=r"does not fit the other shards: u has shape"),
    ):
        store.join()


def test_writers_killed_at_any_moment(tmp_path: Path) -> None:
    side, ids, random = 20_000, range(60), Random(2)
    folder = tmp_path / "run"

    def write() -> None:
        with create(folder, ids, 2, side=side) as store:
            fill(store, side)

    partials = 0
    for _ in range(8):
        in_child(write, kill_after=0.01 + 0.08 * random.random())
        partials += len(list(folder.glob("shards/*.partial")))
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    (folder / "shards/samples_00000000_00000002.h5.partial").write_bytes(b"half")
    with create(folder, ids, 2, side=side) as store:
        assert not list(folder.glob("shards/*.partial"))
        present = set(ids) - {sample for batch in store.missing() for sample in batch}
        fill(store, side)
    print(f"8 kills left {partials} partial files and {len(present)} of 60 samples")
    assert check(folder, deep=True).ok
    assert_holds(folder, ids, side)


def test_merge_killed_at_any_moment(tmp_path: Path) -> None:
    random = Random(3)
    with create(tmp_path, range(60), 1) as store:
        fill(store)

    def merge() -> None:
        for parts in (30, 12, 5):
            with Store.existing(tmp_path) as store:
                store.merge(parts)

    for _ in range(5):
        in_child(merge, kill_after=0.02 + 0.1 * random.random())
        with Store.existing(tmp_path) as store:
            assert store.samples == tuple(range(60))
            store.join()
        assert_holds(tmp_path, range(60))
    with Store.existing(tmp_path) as store:
        assert len(store.merge(4)) <= 4
        store.join()
    assert check(tmp_path, deep=True).ok
