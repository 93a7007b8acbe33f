"""Names, options, the current folder and the folder of a submission cannot make a job run code of others."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import call, make_model, one_line, write_config

from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError, build
from piadm_hpc.submit import JobRequest, batch_script
from piadm_hpc.submit.executors import make_executor, safe_path

EVIL = "open('PWNED', 'w').write('x')\nraise SystemExit('evil')\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    write_config(folder / "run.toml", make_model(folder), folder / "out", samples=2, solver={"tol": 1e-2})
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "x\n#SBATCH --uid=0"], "name: must be one line, without slashes"),
        (["--name", "x\rrm -rf ~"], "name: must be one line"),
        (["--name", "../x"], "name: must be one line, without slashes"),
        (["--name", "x\u2028y"], "name: must be one line"),
        (["--mpi", "none\nrm -rf ~"], "mpi: must be one line"),
        (["--sbatch", "account=a\nrm -rf ~"], "account: 'a\\nrm -rf ~' is not one line of text"),
        (["--sbatch", "account=a\x0bb"], "is not one line of text"),
        (["--sbatch", "x\ny=1"], "is no option of sbatch"),
        (["--sbatch", "x y=1"], "is no option of sbatch"),
        (["--sbatch", "=1"], "is no option of sbatch"),
        (["--setup", "module load x\nrm -rf ~"], "setup: holds a line break; give every line of shell by itself"),
        (["--out", "a\n#SBATCH --uid=0"], "holds a line break or another control character"),
    ],
)
@pytest.mark.parametrize("printed", [True, False])
def test_names_and_options_add_no_lines_to_a_batch_script(
    work: Path, arguments: list[str], words: str, printed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    how = ["--print"] if printed else ["--cluster", "debug"]
    text = one_line(call("submit", work / "run.toml", *arguments, *how), 2)
    assert words in text


def test_a_batch_script_has_the_lines_it_should_have(work: Path) -> None:
    odd = {"name": "50% größe; $(id)", "options": {"comment": "two words; $(id)", "account": "abc"}}
    out = str(work / 'it\'s $HOME `id` "x"')
    Path(out).mkdir()
    script = batch_script([RunConfig(model="m", out=out)], JobRequest(mpi="none", **odd))
    plain = batch_script([RunConfig(model="m", out="plain")], JobRequest(mpi="none", options={"comment": "x", "account": "y"}))
    assert len(script.splitlines()) == len(plain.splitlines())
    heads = [line.split("=")[0] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert heads == [line.split("=")[0] for line in plain.splitlines() if line.startswith("#SBATCH")]
    (comment,) = [line for line in script.splitlines() if "--comment" in line]
    assert shlex.split(comment.removeprefix("#SBATCH --comment=")) == ["two words; $(id)"]
    (run,) = [line for line in script.splitlines() if line.startswith("RUN=")]
    shown = subprocess.run(["bash", "-c", f'{run}; printf %s "$RUN"'], capture_output=True, text=True, timeout=20, check=True)
    assert shown.stdout == out
    assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=20, check=False).returncode == 0


@pytest.mark.parametrize(
    "numbers", [{"nodes": 10**9}, {"hours": 1e12}, {"gpus_per_node": 10**6}, {"chain": 10**6}, {"grace": 10**9}]
)
def test_numbers_of_a_job_beyond_reason(numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(numbers))}: must be at most"):
        build(JobRequest, dict(numbers), "the job")


@pytest.mark.parametrize("module", ["piadm_hpc", "h5py", "sitecustomize"])
def test_python_in_a_batch_script_imports_nothing_from_the_current_folder(work: Path, tmp_path: Path, module: str) -> None:
    """The unchanged srun line is run in a folder that contains a module with the name of an imported one."""
    (tmp_path / f"{module}.py").write_text(EVIL)
    script = batch_script([RunConfig(model=str(work / "gaussian"), samples=1, out=str(tmp_path / "out"))], JobRequest(mpi="none"))
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    python = shlex.split(line.partition(" -m ")[0])[-2:]
    assert python == [sys.executable, "-P"]
    done = subprocess.run(
        [*python, "-m", "piadm_hpc", "integrators"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and not (tmp_path / "PWNED").exists(), done.stderr


def test_submitit_starts_python_as_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = make_executor("local", tmp_path, JobRequest())._submitit_command_str
    assert shlex.split(command)[:2] == [sys.executable, "-P"]
    assert JobRequest(mpi="none").environment["PYTHONSAFEPATH"] == "1"
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with safe_path():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONSAFEPATH"] == ""
    monkeypatch.delenv("PYTHONSAFEPATH")
    with safe_path():
        (tmp_path / "submitit.py").write_text(EVIL)
        code = [sys.executable, "-m", "submitit.local._local", "--help"]
        subprocess.run(code, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert "PYTHONSAFEPATH" not in os.environ and not (tmp_path / "PWNED").exists()


def test_the_folder_of_a_submission_is_its_owners_alone(work: Path, tmp_path: Path) -> None:
    """submitit's pickles lie in it, and whoever may write there could run code as the owner."""
    before = os.umask(0o002)
    try:
        done = call("submit", work / "run.toml", "--out", tmp_path / "out", "--cluster", "local", "--wait")
    finally:
        os.umask(before)
    assert done["code"] == 0, done
    (folder,) = [path for path in (tmp_path / "out/jobs").iterdir() if path.is_dir()]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.pkl")), "the pickles lie below it"


def test_submit_says_when_there_is_no_slurm(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piadm_hpc.submit.executors.shutil.which", lambda name: None)
    done = call("submit", work / "run.toml", "--out", tmp_path / "out", "--wait")
    assert done["code"] == 0 and done["out"].startswith("there is no Slurm here (no sbatch and srun on the PATH)"), done
    asked = call("submit", work / "run.toml", "--out", tmp_path / "asked", "--cluster", "local", "--wait")
    assert asked["code"] == 0 and "no Slurm" not in asked["out"]
    text = one_line(call("submit", work / "run.toml", "--out", tmp_path / "never", "--cluster", "slurm"), 2)
    assert text.startswith("cluster: there is no sbatch and srun on this machine")
