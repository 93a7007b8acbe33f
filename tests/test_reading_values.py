"""Values as files declare them: valid ranges, undeclared numbers for missing values, units, and truncated files."""

from __future__ import annotations

import gzip
import logging
import re
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from gridded import LAT, LON, bare, decoded, read, temperatures, with_values

from piadm_hpc.data.headers import promised_bytes
from piadm_hpc.data.missing import outliers
from piadm_hpc.data.units import converted

LAND = (slice(None), slice(1, 3), slice(2, 5))


def land(value: float, **attrs: object) -> xr.Dataset:
    """Temperatures with six points of land that hold one value."""
    dataset = temperatures()
    values = dataset.tas.values.copy()
    values[LAND] = value
    return with_values(dataset, values, **attrs)


def packed(path: Path, kind: str, code: int, limits: dict[str, np.ndarray], unsigned: bool = False) -> np.ndarray:
    """Write packed temperatures with steps of 0.01 K and a code on land; returns the unpacked values."""
    values = temperatures().tas.values.astype(np.float64)
    codes = np.round((values - 200) / 0.01).astype(np.int64)
    codes[LAND] = code
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("time", "lat", "lon"), values.shape, strict=True):
            file.createDimension(name, size)
        for name, numbers, units in (("lat", LAT, "degrees_north"), ("lon", LON, "degrees_east")):
            file.createVariable(name, "f8", (name,))[:] = numbers
            file[name].units = units
        file.createVariable("time", "f8", ("time",))[:] = 30.4 * np.arange(len(values)) + 15
        file["time"].units = "days since 2000-01-01"
        variable = file.createVariable("tas", kind, ("time", "lat", "lon"))
        variable.set_auto_maskandscale(False)
        variable[:] = codes.astype(kind)
        variable.setncatts({"units": "K", "scale_factor": 0.01, "add_offset": 200.0, **limits})
        if unsigned:
            variable.setncattr("_Unsigned", "true")
    return 200 + 0.01 * np.where(codes == code, np.nan, codes)


# --- the valid range ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (-9999.0, {"valid_min": np.float32(150), "valid_max": np.float32(400)}),
        (616.0, {"valid_range": np.array([150, 400], np.float32)}),
        (1e4, {"valid_max": np.float64(400)}),
    ],
)
def test_values_outside_the_valid_range_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, limits: dict
) -> None:
    bare(land(value, **limits), tmp_path / "a.nc")
    data = read(tmp_path)
    assert int((~data.normalisation.mask).sum()) == 6 and "216 values of tas are outside its valid range" in caplog.text
    assert np.array_equal(np.isnan(decoded(data)[0]), np.isnan(land(np.nan).tas.values[0]))


def test_half_precision_is_read_without_its_library_crashing(tmp_path: Path) -> None:
    """netCDF4 reads numbers of two bytes as pointers to text."""
    temperatures().astype(np.float32).to_netcdf(tmp_path / "a.nc", encoding={"tas": {"_FillValue": None}}, engine="h5netcdf")
    with h5py.File(tmp_path / "a.nc", "r+") as file:
        scales, values = dict(file["lat"].attrs), file["lat"][()]
        file["degrees"] = values.astype(np.float16)
        file["degrees"].attrs["units"] = scales["units"]
    whole = decoded(read(tmp_path))
    assert np.abs(whole - temperatures().tas.values).max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "code", "limits", "unsigned"),
    [
        ("i2", 32767, {"valid_range": np.array([-20000, 20000], "i2")}, False),
        ("i2", 32767, {"valid_max": np.float64(350.0)}, False),  # of the type of the scale: unpacked, according to NUG
        ("i2", -1, {"valid_max": np.int16(-2)}, True),  # 65535 and 65534 as unsigned numbers
        ("i4", -30000, {"valid_min": np.int32(-25000)}, False),
    ],
)
def test_limits_of_packed_data_are_packed(tmp_path: Path, kind: str, code: int, limits: dict, unsigned: bool) -> None:
    expected = packed(tmp_path / "a.nc", kind, code, limits, unsigned)
    data = read(tmp_path, missing_values=())
    assert int((~data.normalisation.mask).sum()) == 6
    np.testing.assert_allclose(decoded(data), expected, atol=1e-3)


def test_the_limits_themselves_are_valid(tmp_path: Path) -> None:
    values = temperatures().tas.values
    bare(with_values(temperatures(), values, valid_range=np.array([values.min(), values.max()])), tmp_path / "a.nc")
    assert bool(read(tmp_path).normalisation.mask.all())


@pytest.mark.parametrize("form", ["a.zarr", "NETCDF3_CLASSIC", "whole numbers", "limits of whole numbers"])
def test_valid_ranges_of_every_format(tmp_path: Path, form: str) -> None:
    dataset = land(-9999.0, valid_range=np.array([150, 400], np.int32 if form.startswith("limits") else np.float32))
    if form == "whole numbers":
        values = np.where(dataset.tas < 0, -99, dataset.tas * 10).astype("i2")
        dataset = dataset.assign(tas=(dataset.tas.dims, values, {"units": "K", "valid_min": np.int16(0)}))
    if form == "a.zarr":
        dataset.to_zarr(tmp_path / form)
    else:
        dataset.to_netcdf(tmp_path / "a.nc", format=form if form.startswith("NET") else "NETCDF4")
    assert int((~read(tmp_path, "a.*").normalisation.mask).sum()) == 6


def test_limits_that_are_no_limits_are_refused(tmp_path: Path) -> None:
    bare(land(np.nan, valid_range=np.array([400, 150], np.float32)), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a.nc: tas has no value within its valid range"):
        read(tmp_path)
    bare(land(np.nan, valid_range="150, 400"), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"valid_range is '150, 400', not a number"):
        read(tmp_path)
    bare(land(np.nan, valid_range=np.float32(3)), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a.nc: valid_range has 1 values; CF wants one for valid_min"):
        read(tmp_path)
    bare(land(np.nan, valid_min="none"), tmp_path / "a.nc")
    with pytest.raises(ValueError, match="valid_min is 'none', not a number"):
        read(tmp_path)


# --- numbers that nothing declares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e20, -9999.0, -999.0, 9.96921e36, -32768.0, 1e35, 5e6, 0.0, 99.0])
def test_undeclared_sentinels_stop_the_training_and_can_be_declared(tmp_path: Path, value: float) -> None:
    bare(land(value), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a\.nc: tas has 216 values of .*, first at time 0, lat 1, lon 2") as refused:
        read(tmp_path)
    named = str(refused.value).partition("data.missing_values = [")[2].partition("]")[0]
    data = read(tmp_path, missing_values=(float(named),))
    assert int((~data.normalisation.mask).sum()) == 6 and np.isfinite(data.train.numpy()).all()


@pytest.mark.parametrize(("kind", "code"), [("i2", -32768), ("i2", -9999), ("i4", 32767), ("u1", 255)])
def test_packed_sentinels_are_found_by_what_they_unpack_to(tmp_path: Path, kind: str, code: int) -> None:
    values = np.round((temperatures().tas.values - 230) / 0.5)
    values[LAND] = code
    attrs = {"units": "K", "scale_factor": 0.5, "add_offset": 230.0}
    temperatures().assign(tas=(("time", "lat", "lon"), values.astype(kind), attrs)).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=rf"a.nc: tas has 216 values of {230 + 0.5 * code:g}, first at time 0, lat 1, lon 2"):
        read(tmp_path)
    assert int((~read(tmp_path, missing_values=(230 + 0.5 * code,)).normalisation.mask).sum()) == 6


@pytest.mark.parametrize("declared", [np.float64(1e20), np.array([-5, 1e20]), np.float64(1e20 * (1 + 1e-7))])
def test_missing_values_may_be_declared_in_another_precision(tmp_path: Path, declared: np.ndarray) -> None:
    bare(land(1e20, missing_value=declared), tmp_path / "a.nc")
    assert int((~read(tmp_path).normalisation.mask).sum()) == 6


def test_sporadic_sentinels_and_infinities_are_found_beside_each_other(tmp_path: Path) -> None:
    values = temperatures().tas.values.copy()
    values[5, 3:5, 3:5], values[17, 2, 2], values[20, 1, 1] = -999, 1e20, np.inf
    bare(with_values(temperatures(), values), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"1 values of inf.*1 values of 1e\+20.*4 values of -999, first at time 5, lat 3, lon 3"):
        read(tmp_path)


def test_real_outliers_are_allowed_by_name(tmp_path: Path) -> None:
    values = temperatures().tas.values.copy()
    values[0, 0, 0] = 5000
    bare(with_values(temperatures(), values), tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"1 values of 5000.*data.allow_outliers = \['tas'\]"):
        read(tmp_path)
    assert decoded(read(tmp_path, allow_outliers=("tas",))).max() == pytest.approx(5000, rel=1e-5)
    with pytest.raises(ValueError, match="allow_outliers names pr, not among the variables tas"):
        read(tmp_path, allow_outliers=("pr",))


@pytest.mark.parametrize("name", ["gamma", "lognormal", "normal", "zeros"])
def test_skewed_fields_have_no_outliers(name: str) -> None:
    generator = np.random.default_rng(1)
    fields = {
        "gamma": generator.gamma(0.3, size=4000),
        "lognormal": generator.lognormal(0, 1.5, size=4000),
        "normal": generator.normal(size=50) * 1000 - 999,
        "zeros": np.where(generator.random(4000) < 0.9, 0, generator.gamma(1.0, size=4000)),
    }
    assert outliers(fields[name].astype(np.float32)) == []


# --- units -------------------------------------------------------------------------------------------------------------


def celsius(dataset: xr.Dataset) -> xr.Dataset:
    return with_values(dataset, dataset.tas.values - 273.15, units="degC")


def test_files_in_other_units_are_converted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    temperatures(seed=1).to_netcdf(tmp_path / "a.nc")
    celsius(temperatures(seed=2, start="2003-01-01")).to_netcdf(tmp_path / "b.nc")
    data = read(tmp_path, "a.nc", "b.nc")
    expected = np.concatenate([temperatures(seed=1).tas.values, temperatures(seed=2).tas.values])
    np.testing.assert_allclose(decoded(data), expected, atol=1e-3)
    assert data.variables[0].attrs["units"] == "K" and "b.nc: tas converted from 'degC' to 'K'" in caplog.text


@pytest.mark.parametrize(("units", "known"), [("celcius", False), ("degC", True), ("kg m-2 s-1", True), ("1", True)])
def test_units_that_no_library_knows_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture, units: str, known: bool) -> None:
    with_values(temperatures(), temperatures().tas.values, units=units).to_netcdf(tmp_path / "a.nc")
    assert read(tmp_path).variables[0].attrs["units"] == units
    assert known != (f"a.nc: tas is in {units!r}, which pint does not know" in caplog.text)


def test_the_recipe_can_ask_for_units(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path, attributes={"tas": {"units": "degC"}})
    np.testing.assert_allclose(decoded(data), temperatures().tas.values - 273.15, atol=1e-3)
    assert data.variables[0].attrs["units"] == "degC"


def test_units_that_measure_other_things_are_refused_with_both_names(tmp_path: Path) -> None:
    with_values(temperatures(), temperatures().tas.values, units="kg m-2 s-1").to_netcdf(tmp_path / "a.nc")
    with_values(temperatures(seed=1), temperatures().tas.values, units="mm day-1").to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match=r"b\.nc: tas is in 'mm day-1', which cannot be converted to 'kg m-2 s-1'"):
        read(tmp_path, "a.nc", "b.nc")
    with_values(temperatures(seed=1), temperatures().tas.values, units="furlongs per fortnight?").to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match="'furlongs per fortnight"):
        read(tmp_path, "a.nc", "b.nc")


def test_units_that_nothing_names_are_found_from_the_size_of_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    unnamed = temperatures(seed=1, start="2003-01-01")
    del unnamed.tas.attrs["units"]
    unnamed.to_netcdf(tmp_path / "b.nc")
    read(tmp_path, "a.nc", "b.nc")
    assert "b.nc: tas has no units; assumed to be in 'K'" in caplog.text
    with_values(unnamed, unnamed.tas.values - 273.15).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match=r"b\.nc: the mean of tas is .*one holds anomalies or other units"):
        read(tmp_path, "a.nc", "b.nc")


@pytest.mark.parametrize(
    ("units", "offset"), [("Celsius", 273.15), ("\N{DEGREE SIGN}C", 273.15), ("deg_C", 273.15), ("kelvin", 0.0)]
)
def test_units_have_many_names(tmp_path: Path, units: str, offset: float) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    other = temperatures(seed=2, start="2003-01-01")
    with_values(other, other.tas.values - offset, units=units).to_netcdf(tmp_path / "b.nc")
    np.testing.assert_allclose(decoded(read(tmp_path, "a.nc", "b.nc"))[36:], other.tas.values, atol=1e-3)


@pytest.mark.parametrize(("factor", "units"), [(1.0, "degC"), (1.0, "mK"), (1e-3, "kK")])
def test_units_that_the_values_contradict_are_refused(tmp_path: Path, factor: float, units: str) -> None:
    """Kelvin under another name would be converted to hundreds of degrees too much."""
    temperatures().to_netcdf(tmp_path / "a.nc")
    wrong = with_values(temperatures(seed=2, start="2003-01-01"), factor * temperatures().tas.values, units=units)
    wrong.to_netcdf(tmp_path / "b.nc")
    if factor == 1:
        with pytest.raises(ValueError, match=rf"b\.nc: tas says '{units}', but its mean 268.* is one in 'K'"):
            read(tmp_path, "a.nc", "b.nc")
    else:
        assert len(read(tmp_path, "a.nc", "b.nc").train) == 72, "true kilokelvins are converted"


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("degC", "K", 283.15),
        ("W m**-2", "W/m^2", 10.0),
        ("hPa", "Pa", 1000.0),
        ("mm/day", "m s-1", 10 / 86.4e6),
        ("%", "1", 0.1),
        ("K", "Kelvin", 10.0),
        ("degF", "K", 260.9278),
    ],
)
def test_conversions(given: str, wanted: str, expected: float) -> None:
    assert converted(np.array([10.0], np.float32), given, wanted)[0] == pytest.approx(expected, rel=1e-5)
    step = converted(np.array([10.0], np.float32), given, wanted, difference=True)[0]
    assert step == pytest.approx(float(np.diff(converted(np.array([0.0, 10.0], np.float32), given, wanted))[0]), rel=1e-4)


# --- files that break off ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA", "NETCDF4"])
@pytest.mark.parametrize("unlimited", [(), ("time",)])
def test_files_that_break_off_are_refused_with_both_sizes(tmp_path: Path, form: str, unlimited: tuple[str, ...]) -> None:
    dataset = temperatures()
    dataset["count"] = ("time", np.arange(36, dtype=np.int16))  # of records padded to four bytes
    dataset.to_netcdf(tmp_path / "a.nc", format=form, unlimited_dims=unlimited, engine="netcdf4")
    whole = (tmp_path / "a.nc").read_bytes()
    assert len(read(tmp_path).train) == 36
    assert len(whole) - 4 < promised_bytes(tmp_path / "a.nc") <= len(whole)
    for share in (0.7, 0.999):
        (tmp_path / "a.nc").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=rf"a\.nc: is truncated: {int(share * len(whole))} of \d+ bytes are there"):
            read(tmp_path)


def unwritten(path: Path, form: str) -> None:
    """Temperatures of whose three chunks the second was never written, or was lost."""
    values, dims = temperatures().tas.values, ("time", "lat", "lon")
    if form == "zarr":
        temperatures().to_zarr(path, zarr_format=2, encoding={"tas": {"chunks": (12, 6, 12), "_FillValue": None}})
        (path / "tas" / "1.0.0").unlink()
        return
    if form == "zeros":
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("tas", values.shape, "f4", chunks=(12, 6, 12))
            dataset[:12], dataset[24:] = values[:12], values[24:]
            for axis, (name, numbers) in enumerate(zip(dims, (np.arange(36.0), LAT, LON), strict=True)):
                file[name] = numbers
                file[name].make_scale(name)
                dataset.dims[axis].attach_scale(file[name])
        return
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(dims, values.shape, strict=True):
            file.createDimension(name, size)
        variable = file.createVariable("tas", "i2" if form == "packed" else "f4", dims, chunksizes=(12, 6, 12))
        if form == "packed":
            variable.setncatts({"scale_factor": 0.01, "add_offset": 273.15})
        variable[:12], variable[24:] = values[:12], values[24:]


@pytest.mark.parametrize("form", ["zarr", "zeros", "packed", "filled"])
def test_chunks_that_were_never_written_are_found(tmp_path: Path, form: str) -> None:
    """Such values read as zeros, or as the number of the format for missing values, unpacked or not."""
    unwritten(tmp_path / f"a.{'zarr' if form == 'zarr' else 'nc'}", form)
    with pytest.raises(ValueError, match=r"tas has 864 values of .*, first at time 12, lat 0, lon 0, far from all others"):
        read(tmp_path, "a.*")


def test_a_compressed_file_that_breaks_off_is_refused(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "plain.nc", format="NETCDF3_CLASSIC")
    packed = gzip.compress((tmp_path / "plain.nc").read_bytes())
    (tmp_path / "a.nc.gz").write_bytes(packed)
    assert len(read(tmp_path, "a.nc.gz").train) == 36
    (tmp_path / "a.nc.gz").write_bytes(packed[:3000])
    with pytest.raises(ValueError, match=r"a\.nc\.gz: is damaged, its values cannot be read .*; copy the file again"):
        read(tmp_path, "a.nc.gz")


def test_one_variable_of_records_is_not_padded(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        file.createDimension("lat", 3)
        file.createVariable("tas", "i1", ("time", "lat"))[:] = np.ones((5, 3))
    assert (tmp_path / "a.nc").stat().st_size - 4 < promised_bytes(tmp_path / "a.nc") <= (tmp_path / "a.nc").stat().st_size


def test_a_file_that_ends_in_its_header_says_so(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc", format="NETCDF3_CLASSIC")
    (tmp_path / "a.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:90])
    with pytest.raises(ValueError, match=r"a\.nc: is truncated within its header, after 90 bytes"):
        read(tmp_path)


def test_damaged_chunks_have_a_message_of_their_own(tmp_path: Path) -> None:
    """A compressed chunk is overwritten by zeros, so that the header is whole and the values cannot be decompressed."""
    temperatures().to_netcdf(tmp_path / "a.nc", encoding={"tas": {"zlib": True}})
    with h5py.File(tmp_path / "a.nc") as file:
        chunk = file["tas"].id.get_chunk_info(0)
    with (tmp_path / "a.nc").open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(ValueError, match=r"a\.nc: is damaged, its values cannot be read .*; copy the file again"):
        read(tmp_path)


def test_what_is_mended_is_a_line_of_the_log_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    celsius(land(-9999.0, valid_min=np.float32(-150))).to_netcdf(tmp_path / "a.nc")
    with caplog.at_level(logging.WARNING):
        read(tmp_path, attributes={"tas": {"units": "K"}})
    assert [record.message.partition(":")[0] for record in caplog.records] == ["a.nc", "a.nc"]


def test_the_page_names_tests_that_there_are() -> None:
    folder = Path(__file__).parent
    page = (folder.parent / "docs" / "data.md").read_text(encoding="utf-8")
    named = {name for line in page.splitlines() if line.startswith("|") for name in re.findall(r"`(test_\w+)`", line)}
    files = [*folder.glob("test_reading_*.py"), folder / "test_shapes.py"]
    there = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    assert len(named) > 20 and named <= there, named - there
