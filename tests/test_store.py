"""The store without faults: names, units and values, and each sample drawn once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cf_xarray  # noqa: F401 (registers the accessor)
import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from piadm_hpc.schema.layout import Coordinate, Layout, Variable
from piadm_hpc.store.conventions import cell_weight, latitude, longitude
from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.integrity import check
from piadm_hpc.store.provenance import global_attributes
from piadm_hpc.store.reading import open_run
from piadm_hpc.store.skeleton import MAX_CHUNK_BYTES, chunk_shape

LAT, LON, LEVEL = np.linspace(75, -75, 6), np.arange(0, 360, 45.0), np.array([500.0, 850.0])
ENGINES = ("h5netcdf", "netcdf4")
CONFIG = {"solver": {"name": "picard", "tol": 1e-3, "window": None}, "seed": 3, "output": {"folder": "a"}}


def weather() -> Layout:
    """Two fields on a small globe: t2m(lat, lon) and z(level, lat, lon)."""
    return Layout(
        (
            Variable("t2m", ("lat", "lon"), {"standard_name": "air_temperature", "units": "K"}),
            Variable("z", ("level", "lat", "lon"), {"standard_name": "geopotential_height", "units": "m"}),
        ),
        {
            "level": Coordinate(("level",), LEVEL, {"units": "hPa", "positive": "down", "axis": "Z"}),
            "lat": latitude(LAT),
            "lon": longitude(LON),
            "cell_weight": cell_weight(LAT),
        },
    )


def values(ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Fields that depend on the sample id alone."""
    t2m = np.stack([np.random.default_rng(sample).standard_normal((6, 8)) for sample in ids]).astype(np.float32)
    return {"t2m": t2m, "z": np.stack([t2m, 2 * t2m], axis=1)}


def costs(ids: Sequence[int]) -> dict[str, np.ndarray]:
    n = len(ids)
    return {
        "seed": np.full(n, 3),
        "sweeps": np.arange(4) + np.asarray(ids)[:, None],
        "residual": np.full((n, 4), 1e-4),
        "converged": np.ones(n, bool),
        "model_calls": np.asarray(ids) * 10,
    }


def create(folder: Path, samples: Sequence[int], shard_size: int = 4, **options: Any) -> Store:
    given: dict[str, Any] = {"layout": weather(), "config": CONFIG, "attributes": {"title": "test", "model_sha256": "abc"}}
    return Store.create(folder, samples=samples, shard_size=shard_size, **(given | options))


def fill(store: Store, batches: Sequence[Sequence[int]] | None = None) -> Path:
    for ids in store.missing() if batches is None else batches:
        store.write(ids, values(ids), costs(ids))
    return store.join()


def assert_holds(dataset: xr.Dataset, ids: Sequence[int], dim: str = "realization") -> None:
    """Every value of every sample is the one written, in order of the ids."""
    assert dataset[dim].values.tolist() == list(ids)
    for name, want in values(ids).items():
        np.testing.assert_array_equal(dataset[name].values, want)
    np.testing.assert_array_equal(dataset["sweeps"].values, costs(ids)["sweeps"])
    np.testing.assert_array_equal(dataset["model_calls"].values, costs(ids)["model_calls"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["shard", "index", "copy"])
def test_opens_in_plain_xarray(tmp_path: Path, engine: str, kind: str) -> None:
    with create(tmp_path / "run", range(10)) as store:
        path, ids = fill(store), range(10)
        if kind == "copy":
            path = store.join(copy=True)
        if kind == "shard":
            path, ids = tmp_path / "run/shards/samples_00000004_00000008.h5", range(4, 8)
    with xr.open_dataset(path, engine=engine) as dataset:
        assert_holds(dataset, ids)
        assert dataset["t2m"].dims == ("realization", "lat", "lon")
        assert dataset["z"].dims == ("realization", "level", "lat", "lon")
        assert dataset["sweeps"].dims == ("realization", "block")
        assert dataset["t2m"].attrs["units"] == "K" and dataset["lat"].attrs["units"] == "degrees_north"
        assert dataset["t2m"].dtype == np.float32 and dataset["converged"].dtype == np.int8
        assert dataset["converged"].attrs["flag_meanings"] == "not_converged converged"
        assert dataset["realization"].attrs["standard_name"] == "realization" and "axis" not in dataset["realization"].attrs
        assert "cell_weight" in dataset["t2m"].coords and dataset["lat"].values.tolist() == LAT.tolist()
        assert set(dataset.cf.axes) == {"X", "Y", "Z"}
        assert dataset.cf["latitude"].name == "lat" and dataset.cf["longitude"].name == "lon"
    if kind != "index":
        with h5py.File(path) as file:
            assert file["z"].chunks == (1, 2, 6, 8) and file["z"].compression == "gzip" and file["z"].shuffle
            assert np.isnan(file["z"].attrs["_FillValue"]) and "_FillValue" not in file["seed"].attrs


def test_open_run_is_lazy_and_speaks_dialects(tmp_path: Path) -> None:
    with create(tmp_path / "run", range(5)) as store:
        fill(store)
    for dialect, dim in (("earth2studio", "ensemble"), ("ecmwf", "number"), ("member", "member"), ("wb2", "realization")):
        with open_run(tmp_path / "run", chunks={}, dialect=dialect) as dataset:
            assert dataset["t2m"].chunks is not None and dataset["t2m"].chunks[0] == (1,) * 5
            assert_holds(dataset, range(5), dim)
    with open_run(tmp_path / "run/samples.h5", chunks={"realization": 2}, engine="netcdf4") as dataset:
        assert dataset["t2m"].chunks[0] == (2, 2, 1)
        np.testing.assert_allclose(dataset["t2m"].mean("realization"), values(range(5))["t2m"].mean(0), atol=1e-6)
    with pytest.raises(StoreError, match=r"dialect: 'grib' is not known; give one of"):
        open_run(tmp_path / "run", dialect="grib")


def test_conformers_have_their_own_sample_dimension(tmp_path: Path) -> None:
    names = np.array(["N", "CA", "C", "Ångström"])
    layout = Layout(
        (Variable("coordinates", ("atom", "spatial"), {"units": "nanometers"}),),
        {
            "atom": Coordinate(("atom",), np.arange(4)),
            "spatial": Coordinate(("spatial",), np.array(["x", "y", "z"])),
            "atom_name": Coordinate(("atom",), names),
            "frame_time": Coordinate((), np.array(0.5), {"units": "ps"}),
        },
        sample_dim="sample",
    )
    with create(tmp_path / "run", range(3), layout=layout) as store:
        data = np.random.default_rng(0).standard_normal((3, 4, 3))
        store.write(range(3), {"coordinates": data}, {"valid": np.array([True, False, True])})
        store.join()
    for engine in ENGINES:
        with open_run(tmp_path / "run", engine=engine) as dataset:
            assert dataset["coordinates"].dims == ("sample", "atom", "spatial")
            assert dataset["atom_name"].values.tolist() == names.tolist() and float(dataset["frame_time"]) == 0.5
            np.testing.assert_array_equal(dataset["coordinates"], data.astype(np.float32))


def test_provenance_travels_with_every_file(tmp_path: Path) -> None:
    attributes = global_attributes(
        CONFIG, model_sha256="f00", title="Weather", source="a model", seed=3, command="piadm sample run.toml"
    )
    with create(tmp_path / "run", range(2), attributes=attributes | {"words": ["one", "three"], "nothing": None}) as store:
        fill(store)
    for engine in ENGINES:
        with open_run(tmp_path / "run", engine=engine) as dataset:
            assert dataset.attrs["Conventions"] == "CF-1.11 ACDD-1.3" and "2405.15986" in dataset.attrs["references"]
            assert dataset.attrs["history"].endswith("piadm sample run.toml") and dataset.attrs["seed"] == 3
            assert '"tol": 0.001' in dataset.attrs["piadm_config"] and dataset.attrs["numpy_version"] == np.__version__
            assert "complete" not in dataset.attrs and "nothing" not in dataset.attrs
            dataset.drop_attrs().load()


def test_copy_elsewhere_stands_alone(tmp_path: Path) -> None:
    with create(tmp_path / "run", range(6), compression="none") as store:
        fill(store)
        with pytest.raises(StoreError, match="must lie beside its shards"):
            store.join(to=tmp_path / "one.h5")
    with Store.existing(tmp_path / "run") as store:  # another compression than that of the shards
        path = store.join(copy=True, to=tmp_path / "one.h5")
    shutil.rmtree(tmp_path / "run")
    assert check(path, deep=True).ok
    with open_run(path) as dataset:
        assert_holds(dataset, range(6))


ids_strategy = st.lists(st.integers(0, 60), min_size=1, max_size=14, unique=True).map(sorted)


@settings(max_examples=15, deadline=None)
@given(ids=ids_strategy, shard_size=st.integers(1, 6), data=st.data())
def test_batches_partition_and_missing_is_what_is_absent(ids: list[int], shard_size: int, data: st.DataObject) -> None:
    with TemporaryDirectory() as name, create(Path(name), ids, shard_size) as store:
        batches = store.batches()
        assert [sample for batch in batches for sample in batch] == ids
        assert all(len(batch) == shard_size for batch in batches[:-1]) and store.missing() == batches
        done = data.draw(st.lists(st.sampled_from(batches), unique=True))
        present = {sample for batch in done for sample in batch}
        if done:
            fill(store, done)
        assert [s for batch in store.missing() for s in batch] == [s for s in ids if s not in present]
        fill(store)
        assert store.missing() == []
        with open_run(name) as dataset:
            assert_holds(dataset, ids)


@settings(max_examples=12, deadline=None)
@given(lists=st.lists(ids_strategy, min_size=1, max_size=4), limit=st.integers(1, 4))
def test_any_shards_in_any_order_give_the_same_samples(lists: list[list[int]], limit: int) -> None:
    ids = sorted({sample for part in lists for sample in part})
    with TemporaryDirectory() as name, create(Path(name), ids, 5) as store:
        fill(store, lists)
        assert check(name, deep=True).ok
        with open_run(name) as dataset:
            assert_holds(dataset, ids)
        assert len(store.merge(limit)) <= limit
        store.join()
        assert check(name, deep=True).ok
        with open_run(name) as dataset:
            assert_holds(dataset, ids)


def test_growing_and_picking_samples(tmp_path: Path) -> None:
    with create(tmp_path, [17]) as store:
        assert fill(store) and [path.name for path in (tmp_path / "shards").iterdir()] == ["samples_00000017_00000018.h5"]
    with create(tmp_path, range(20), 8) as store:
        assert store.missing() == [tuple(range(8)), tuple(range(8, 16)), (16, 18, 19)]
        fill(store)
    with create(tmp_path, [3, 42]) as store:
        assert store.missing() == [(42,)]
        fill(store)
    with open_run(tmp_path) as dataset:
        assert_holds(dataset, [*range(20), 42])


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with create(tmp_path, range(4)) as store:
        fill(store)
    other = {"solver": {"name": "picard", "tol": 1e-2}, "seed": 3, "output": {"folder": "b"}, "guidance": 2.0}
    new = {"config": other, "attributes": {"model_sha256": "other"}}
    with pytest.raises(StoreError) as caught:
        create(tmp_path, range(8), **new)
    assert "solver.tol: 0.001 there, 0.01 here" in str(caught.value) and "output.folder: 'a' there" in str(caught.value)
    assert "guidance: '(not set)' there, 2.0 here" in str(caught.value) and "model_sha256: 'abc' there" in str(caught.value)
    same: Mapping[str, Any] = CONFIG | {"output": {"folder": "b"}}
    with create(tmp_path, range(8), config=same, independent=frozenset({"output"})) as store:
        assert store.missing() == [(4, 5, 6, 7)]
    with create(tmp_path, range(4), overwrite=True, **new) as store:
        assert store.missing() == [(0, 1, 2, 3)] and not (tmp_path / "samples.h5").exists()
    with create(tmp_path, range(4)) as store:  # nothing was drawn, so that another configuration is accepted
        assert store.missing() == [(0, 1, 2, 3)]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with create(tmp_path, range(4)) as store:
        t2m = values([0, 1])["t2m"]
        t2m[1, 2, 3] = np.inf
        with pytest.raises(StoreError) as caught:
            store.write([0, 1], {"t2m": t2m, "rain": t2m}, {"sweeps": np.ones(3), "speed": np.ones(2), "seed": np.ones(2)})
    for words in (
        "z: not given",
        "rain: not in the layout",
        "sample 1 (1 of 48)",
        "sweeps: shape (3,)",
        "speed",
        "seed: is float64",
    ):
        assert words in str(caught.value)
    with pytest.raises(StoreError, match=r"not rising.*at least one sample per shard.*compression: 'lzma'"):
        Store.attach(tmp_path, layout=weather(), samples=[2, 1], shard_size=0, attributes={}, compression="lzma")
    bad = Layout((Variable("seed", ("x",), {}),), {"y": Coordinate(("y",), np.zeros((2, 2)))})
    with pytest.raises(StoreError, match=r"'seed' is used twice.*dimension 'x' has no coordinate.*do not fit dimensions"):
        Store.attach(tmp_path, layout=bad, samples=[1], shard_size=1, attributes={})


def test_missing_values_only_where_they_are_meant(tmp_path: Path) -> None:
    with create(tmp_path, range(4)) as store:
        data, land = values(range(4)), np.zeros((6, 8), bool)
        data["t2m"][:, 0, :2], land[0, :2] = np.nan, True
        with pytest.raises(StoreError, match=r"t2m: values that are not finite .* sample 0 \(2 of 48\)"):
            store.write(range(4), data, {})
        store.write(range(4), data, {}, allow_nan={"t2m": land})
        store.join()
    assert check(tmp_path, deep=True).ok
    with open_run(tmp_path) as dataset:
        assert int(np.isnan(dataset["t2m"]).sum()) == 8


def test_chunks_hold_one_sample_up_to_a_size() -> None:
    assert chunk_shape((721, 1440)) == (1, 721, 1440)
    big = chunk_shape((37, 721, 1440))
    assert big[-2:] == (721, 1440) and 4 * np.prod(big) <= MAX_CHUNK_BYTES
    assert 4 * np.prod(chunk_shape((1, 20000, 20000))) <= MAX_CHUNK_BYTES


def test_area_weights() -> None:
    weight = cell_weight(np.linspace(-90, 90, 181)).values
    assert weight.sum() == pytest.approx(1) and weight[90] == pytest.approx(np.sin(np.deg2rad(0.5)))
    nodes, quadrature = np.polynomial.legendre.leggauss(32)
    rows = np.rad2deg(np.arcsin(nodes))[::-1]
    exact = cell_weight(rows, quadrature=quadrature).values
    np.testing.assert_allclose(cell_weight(rows).values, exact, rtol=0.06)
    with pytest.raises(ValueError, match="do not rise or fall"):
        cell_weight([0.0, 10.0, 5.0])
    with pytest.raises(ValueError, match="between -90 and 90"):
        latitude([91.0])
