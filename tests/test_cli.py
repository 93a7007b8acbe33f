"""The commands, run in this process, and their messages to users who made a mistake."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import xarray as xr
from helpers import RUN, STEPS, add_network, call, make_model, one_line, piadm, write_config
from launching import launch

import piadm_hpc
from piadm_hpc.cli.main import NAMES
from piadm_hpc.config.templates import KINDS
from piadm_hpc.models.config import load_config

# far above rounding, so that a Gaussian takes one sweep on every machine
LOOSE = {"solver": {"kind": "picard", "tol": 1e-2}}

WITHOUT_MPI = """
import sys
import piadm_hpc
from piadm_hpc.cli.main import main
from helpers import call
for command in sys.argv[2:]:
    report = call(command, "--help")
    assert report["code"] == 0 and "usage: piadm " + command in report["out"], report
assert main(["plan", sys.argv[1]]) == 0
assert main(["sample", sys.argv[1]]) == 0
assert main(["doctor", "--folder", sys.argv[1].rpartition("/")[0]]) == 0
loaded = sorted(name for name in sys.modules if name.startswith("mpi4py"))
assert not loaded, f"{loaded} should not be loaded without a launcher"
print("done without MPI")
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a Gaussian model, a finished run of it, and its run.toml."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder / "run.toml", make_model(folder), folder / "run", **LOOSE)
    assert call("sample", config)["code"] == 0
    return folder


def test_nothing_needs_mpi_without_a_launcher(work: Path) -> None:
    broken = work / "broken"
    (broken / "mpi4py").mkdir(parents=True)
    (broken / "mpi4py" / "__init__.py").write_text('raise ImportError("libmpi.so.12: cannot open shared object file")\n')
    config = write_config(work / "serial.toml", work / "gaussian", work / "serial", **LOOSE)
    path = f"import sys; sys.path[:0] = [{str(broken)!r}, {str(Path(__file__).parent)!r}]\n"
    done = launch([sys.executable, "-c", path + WITHOUT_MPI, str(config), *NAMES], ranks=None, timeout=90)
    assert done.returncode == 0 and "done without MPI" in done.stdout, done.stdout + done.stderr
    with piadm_hpc.open(work / "serial") as serial, piadm_hpc.open(work / "run") as here:
        xr.testing.assert_allclose(serial["tas"], here["tas"], rtol=1e-6)


def test_a_launcher_of_another_mpi_is_an_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    done = piadm(["sample", work / "run.toml", "--out", work / "mixed"])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the launcher announced 2 ranks (PMI_SIZE) but the MPI library sees 1" in done.stderr
    assert "Use the mpiexec of the same MPI" in done.stderr and not (work / "mixed").exists()


def test_help_lists_every_command_and_the_exit_codes() -> None:
    text = call("--help")["out"]
    assert all(re.search(rf"\n    {command}\s", text) for command in NAMES) and "75 stopped" in text.replace("\n", " ")
    for arguments in ([], ["sampel"], ["sample", "--samples", "x"], ["init", "clim"]):
        report = call(*arguments)
        assert report["code"] == 2 and "usage: piadm" in report["err"] and "error: " in report["err"]


def test_from_a_run_to_one_file_in_xarray(work: Path) -> None:
    checked = call("check", work / "run", "--deep")
    assert checked["code"] == 0 and checked["out"].strip().endswith(": whole") and "6 samples in 3 shards" in checked["out"]
    copy = work / "one.h5"
    joined = call("join", work / "run", "--copy", "--to", copy)
    assert joined["code"] == 0 and joined["out"].strip() == str(copy)
    assert call("check", copy)["code"] == 0 and call("join", work / "run")["code"] == 0
    with xr.open_dataset(copy) as one, xr.open_dataset(work / "run" / "samples.h5") as index:
        xr.testing.assert_equal(one, index)
        assert one["tas"].dims == ("realization", "lat", "lon") and one["tas"].attrs["units"] == "K"
        assert one["realization"].values.tolist() == list(range(6)) and one["converged"].values.all()
    with xr.open_dataset(copy, engine="netcdf4") as other:
        assert other["tas"].shape == (6, 8, 16)


def test_the_same_command_again_has_nothing_to_do_and_more_samples_are_added(work: Path) -> None:
    config = write_config(work / "more.toml", work / "gaussian", work / "more", samples=2, **LOOSE)
    first = call("sample", config)
    assert first["code"] == 0 and f'open with:  piadm_hpc.open("{work}/more")' in first["out"]
    again = call("sample", config)
    assert again["code"] == 0 and "nothing to do: every sample of this run has already been drawn" in again["out"]
    assert call("sample", config, "--samples", 5)["code"] == 0
    with piadm_hpc.open(work / "more") as more, piadm_hpc.open(work / "run") as whole:
        xr.testing.assert_allclose(more["tas"], whole["tas"][:5], rtol=1e-6)
    log = (work / "more" / "log.txt").read_text()
    assert "2 of 2 samples to make" in log and "3 of 5 samples to make" in log


def test_overwrite_starts_again(work: Path) -> None:
    config = write_config(work / "over.toml", work / "gaussian", work / "over", samples=1)
    assert call("sample", config)["code"] == 0
    refused = call("sample", config, "--seed", 4)
    assert refused["code"] == 1 and refused["err"].startswith(f"piadm: {work}/over holds 1 samples of another configuration:")
    assert "  seed: 0 there, 4 here" in refused["err"].splitlines()
    assert call("sample", config, "--seed", 4, "--overwrite")["code"] == 0
    with piadm_hpc.open(work / "over") as over:
        assert over["seed"].values.tolist() == [4]


def test_a_changed_configuration_names_every_key_that_differs(work: Path) -> None:
    report = call("sample", work / "run.toml", "--tol", "1e-4", "--set", "grid.steps=9", "--set", "solver.linear=process")
    assert report["code"] == 1 and "Traceback" not in report["err"]
    keys = [line.split(":")[0].strip() for line in report["err"].splitlines()[1:-1]]
    assert keys == ["grid.steps", "solver.linear", "solver.tol"]
    same = call("sample", work / "run.toml", "--model-batch", 3, "--set", "output.batch=5", "--set", "compute.threads=1")
    assert same["code"] == 0, "how a run is shared out may change"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sample"], 2, "give a configuration (`piadm init` prints one) or --model with the name or folder of a model"),
        (["sample", "none.toml"], 2, "none.toml: cannot be read (No such file or directory); give the path of a TOML file"),
        (["sample", "RUN", "--set", "tol=3"], 2, "run.toml with the command line: tol: unknown key; did you mean solver.tol?"),
        (["sample", "RUN", "--set", "solver.tol"], 2, "--set 'solver.tol': write it as key=value, for example solver.tol=1e-3"),
        (["sample", "RUN", "--only", "x"], 2, "--only 'x': give sample ids such as 17,42-47"),
        (["sample", "RUN", "--time-ranks", "some"], 2, "compute.time_ranks: must be a whole number or 'auto' (given \"some\")"),
        (["sample", "RUN", "--time-ranks", "2"], 2, "--time-ranks 2 needs a launcher: mpiexec -n 2 piadm sample"),
        (["sample", "RUN", "--device", "gpu"], 2, "compute.device: no 'gpu' on this host; give auto or cpu"),
        (["sample", "RUN", "--device", "cuda:64"], 2, "compute.device: no 'cuda:64' on this host; give auto or cpu"),
        (["tune", "RUN", "--batch", "0"], 2, "--batch 0: give a number of samples from 1 to 10000"),
        (["tune", "RUN", "--batch", "1000000000"], 2, "--batch 1000000000: give a number of samples from 1 to 10000"),
        (["compare", "target-a", "--device", "gpu"], 2, "--device: no 'gpu' on this host; give cpu"),
        (["sample", "RUN", "--set", "grid.delta=100"], 2, "grid.delta = 100 must lie between 0 and grid.horizon = 10"),
        (["sample", "RUN", "--set", "grid.blocks=99"], 2, f"grid.blocks = 99 exceeds the {STEPS} steps of the grid"),
        (["sample", "RUN", "--model", "unheard-of"], 2, "unheard-of: no such model folder; models shipped with the package are"),
        (["sample", "RUN", "--model", "HERE"], 2, "card.toml: no such file; a model folder holds card.toml, reference.h5 and"),
        (["sample", "RUN", "--out", "RUN/below"], 1, "run.toml/below: Not a directory; choose a folder that you may write"),
        (["plan", "RUN", "--ranks", "0"], 2, "--ranks 0: a run takes at least one rank"),
        (["plan", "RUN", "--ranks", "3", "--time-ranks", "2"], 2, "--time-ranks 2 does not divide 3 ranks; possible are [1, 3]"),
        (["plan", "RUN", "--ranks", "13", "--time-ranks", "13"], 2, "13 time ranks cannot share the 12 step(s) of the grid's"),
        (["join", "HERE"], 1, "holds no whole shard; give the folder of a run that has finished some samples"),
        (["join", "DONE", "--to", "x.h5"], 1, "an index must lie beside its shards, not at x.h5"),
        (["join", "DONE", "--copy", "--to", "nowhere/x.h5"], 1, "nowhere/x.h5: No such file or directory; make the folder"),
        (["train", "none.toml"], 2, "none.toml: cannot be read (No such file or directory)"),
    ],
)
def test_one_line_for_every_mistake(work: Path, arguments: list[str], code: int, message: str) -> None:
    places = {"RUN": str(work / "run.toml"), "HERE": str(work), "DONE": str(work / "run")}
    given = [places.get(argument, argument.replace("RUN/", f"{work}/run.toml/")) for argument in arguments]
    text = one_line(call(*given), code)
    assert message in text.replace(f"{work}/", ""), text


def test_several_mistakes_in_a_configuration_are_one_message(work: Path) -> None:
    path = work / "wrong.toml"
    path.write_text('model = "m"\nsampels = 3\nseed = -1\n[solver]\ntol = "small"\nkind = "picar"\n[grid]\nhorizon = "far"\n')
    for command in ("sample", "plan", "check"):
        report = call(command, path)
        head, *lines = report["err"].splitlines()
        assert report["code"] == 2 and head == f"piadm: {path}: 5 mistakes"
        assert {line.split(":")[0].strip() for line in lines} == {"sampels", "seed", "solver.tol", "solver.kind", "grid.horizon"}


def test_check_reads_a_configuration_or_says_what_is_missing(work: Path) -> None:
    assert call("check", work / "run.toml")["out"] == f"{work}/run.toml: a valid configuration\n"
    for path in (work, work / "nowhere"):
        report = call("check", path)
        assert report["code"] == 1 and "holds no samples; give the folder of a run" in report["out"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_init_prints_what_the_other_commands_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "made.toml"
    path.write_text(call("init", kind)["out"])
    if kind.startswith("train"):
        assert load_config(path).name in ("my-fields", "my-molecule")
    else:
        assert call("check", path)["code"] == 0


def test_plan_counts_what_a_run_will_cost_and_writes_nothing(work: Path) -> None:
    before = sorted(path.name for path in work.iterdir())
    config = piadm_hpc.RunConfig(model=str(work / "gaussian"), out=str(work / "planned"), **(RUN | LOOSE))
    report = call("plan", work / "run.toml", "--ranks", 4, "--time-ranks", 2)
    assert report["code"] == 0 and "6 samples on 4 ranks: 2 sample groups x 2 time ranks" in report["out"]
    plan = piadm_hpc.plan(config, ranks=4)
    assert (plan.ranks, plan.groups, plan.time_ranks, plan.num_samples) == (4, 4, 1, 6)
    assert plan.bytes_per_sweep == 0 and plan.steps == STEPS and plan.blocks == 1
    assert 1 <= plan.rounds <= STEPS and plan.rounds <= plan.calls <= STEPS * (STEPS + 1) / 2
    assert 5e7 < plan.memory_per_rank < 2e9 and plan.output_bytes == 4 * 6 * 8 * 16
    assert 0 < plan.seconds_per_call < 1 and plan.seconds > 0 and plan.sequential_seconds > 0
    shared = piadm_hpc.plan(config.replace(compute={"time_ranks": 4}), ranks=4)
    # a scan over four ranks has two stages, each with two samples of at least 128 float32 coordinates
    assert 2 * 2 * 128 * 4 <= shared.bytes_per_sweep < 1e4
    measured = piadm_hpc.plan(config, ranks=1, pilot=True)
    assert measured.measured and measured.rounds == 1, "a Gaussian needs one sweep"
    sequential = piadm_hpc.plan(config.replace(solver={"kind": "sequential"}), ranks=2)
    assert sequential.rounds == sequential.calls == STEPS and sequential.time_ranks == 1
    tight = call("plan", work / "run.toml", "--ranks", 1, "--memory", 1e-3)
    assert tight["code"] == 0 and "arrangement      does not fit: one sample needs" in tight["out"]
    assert "--memory 0: give the GB" in call("plan", work / "run.toml", "--memory", 0)["err"]
    dry = call("sample", work / "run.toml", "--out", work / "planned", "--plan")
    assert dry["code"] == 0 and "memory" in dry["out"]
    assert sorted(path.name for path in work.iterdir()) == before


def test_doctor_names_what_fails_and_what_to_do(work: Path) -> None:
    fine = call("doctor", "--folder", work)
    assert fine["code"] == 0 and "FAIL" not in fine["out"] and "`mpiexec -n 2 piadm doctor` tests MPI" in fine["out"]
    bad = call("doctor", "--folder", work / "nowhere")
    failing = [line for line in bad["out"].splitlines() if line.startswith("FAIL")]
    assert bad["code"] == 1 and any("choose another folder" in line for line in failing) and "Traceback" not in bad["err"]
    assert [line.split()[1] for line in failing] == ["HDF5", "locking", "write"]


def test_weights_that_do_not_fit_or_are_not_finite_are_refused_by_name(work: Path) -> None:
    other = add_network(work / "gaussian", work / "other", width=8, card_width=16)
    text = one_line(call("sample", work / "run.toml", "--out", work / "bad", "--model", other), 2)
    assert f"{other}/weights.safetensors: " in text and "the card's network needs" in text
    poisoned = add_network(work / "gaussian", work / "poisoned", bad_weight=float("nan"))
    text = one_line(call("sample", work / "run.toml", "--out", work / "bad", "--model", poisoned), 2)
    assert text == f"{poisoned}/weights.safetensors: maps has values that are not finite"
    weights = poisoned / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    text = one_line(call("sample", work / "run.toml", "--out", work / "bad", "--model", poisoned), 2)
    assert text.startswith(f"{weights}: its sha256 is not the one in card.toml")
    weights.unlink()
    assert (
        one_line(call("sample", work / "run.toml", "--out", work / "bad", "--model", poisoned), 2) == f"{weights}: no such file"
    )
    assert not (work / "bad").exists(), "a run that cannot start leaves nothing behind"


def test_integrators_are_listed() -> None:
    report = call("integrators")
    assert report["code"] == 0
    rows = [line.split() for line in report["out"].splitlines()]
    assert rows[0][:4] == ["name", "order", "calls", "random"]
    by_name = {row[0]: row[1:5] for row in rows[1:]}
    assert by_name["rvv"] == ["1", "2", "never", "phase"] and by_name["ddpm"] == ["1", "1", "always", "data"]
