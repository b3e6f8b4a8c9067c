"""What `make` installs, with which Python, and what it says where it cannot."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUPPORTED = ["3.11", "3.12", "3.13"]
LOCKS = ["requirements", "requirements-slow"]
THIS = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run_in(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One of .ci's programs, with no variable of this shell but those that programs are found by."""
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["/bin/bash", *words], cwd=folder, env={**kept, **env}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for the PATH, with the few programs that .ci/interpreter calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "tail", "sh"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A project's folder whose path has a space, with an environment in it."""
    folder = tmp_path / "my work" / "audit"
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    return folder


def is_stale(folder: Path, **env: str) -> bool:
    done = run_in(folder, ".ci/install", "--stale", **env)
    assert (done.returncode, done.stderr) == (0, "")
    return bool(done.stdout)


def pins(name: str) -> dict[str, str]:
    """Package -> version (and marker) of a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==(.*?) \\$", (ROOT / f"{name}.lock").read_text(), re.MULTILINE))


def test_an_interpreter_that_does_not_run_is_passed_over(path: Path) -> None:
    program(path / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    program(path / THIS, f'exec "{sys.executable}" "$@"')
    done = run_in(ROOT, ".ci/interpreter", PATH=str(path))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == Path(sys.executable).resolve()


def test_without_a_supported_python_it_says_what_was_found_and_what_to_do(path: Path) -> None:
    program(path / "python3.13", "exit 127")
    program(path / "python3", "echo is Python 3.14.1 >&2; exit 1")
    done = run_in(ROOT, ".ci/interpreter", PATH=str(path), MAKECMDGOALS="repro")
    assert (done.returncode, done.stdout) == (1, "")
    for said in ("python3.13 does not run (exit code 127)", "is Python 3.14.1", "apt install python3", "make PYTHON="):
        assert said in done.stderr
    assert "repro" in done.stderr


def test_a_python_without_venv_is_named_with_its_package(path: Path) -> None:
    """Debian's python3 lacks ensurepip until python3-venv is there."""
    hide = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'ensurepip' else find(n)"
    )
    program(path / "python3", f'shift 2; code=$1; shift; exec "{sys.executable}" -E -c "{hide}\n$code" "$@"')
    done = run_in(ROOT, ".ci/interpreter", PATH=str(path))
    assert done.returncode == 1
    assert f"apt install {THIS}-venv" in done.stderr


def test_the_python_that_is_named_is_the_only_candidate(path: Path) -> None:
    program(path / THIS, f'exec "{sys.executable}" "$@"')
    assert run_in(ROOT, ".ci/interpreter", PATH=str(path)).returncode == 0
    done = run_in(ROOT, ".ci/interpreter", PATH=str(path), PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "/no/such/python does not run" in done.stderr
    assert THIS not in done.stderr.partition("Found")[2].partition("Install")[0]


def test_a_whole_environment_is_used_and_so_is_a_link_to_one(clone: Path, tmp_path: Path) -> None:
    assert not is_stale(clone)
    other = tmp_path / "worktree"
    shutil.copytree(clone / ".ci", other / ".ci")
    (other / ".venv").symlink_to(clone / ".venv")
    assert not is_stale(other)


def test_an_environment_is_made_anew_after_a_move_and_after_a_copy(clone: Path, tmp_path: Path) -> None:
    """Its programs name the folder that they were installed in: those of a copy would run the original's."""
    shutil.copytree(clone, tmp_path / "copy", symlinks=True)
    assert is_stale(tmp_path / "copy")
    assert not is_stale(clone)
    clone.rename(tmp_path / "moved")
    assert is_stale(tmp_path / "moved")


def test_an_environment_is_made_anew_where_its_interpreter_is_gone(clone: Path) -> None:
    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to("/no/such/python")
    assert is_stale(clone)


def test_an_environment_is_made_anew_where_its_interpreter_is_another_version_now(clone: Path) -> None:
    config = clone / ".venv/pyvenv.cfg"
    config.write_text(re.sub(r"(?m)^version = .*$", "version = 3.10.2", config.read_text()))
    assert is_stale(clone)


def test_an_installation_that_was_cut_off_is_not_taken_for_whole(clone: Path) -> None:
    (clone / ".venv/begun").write_text("1 elsewhere\n")
    assert is_stale(clone)


def test_two_installations_do_not_work_on_one_environment(clone: Path) -> None:
    (clone / ".venv/begun").write_text(f"{os.getpid()} {os.uname().nodename}\n")
    done = run_in(clone, ".ci/install", TORCH="torch")
    assert done.returncode == 1
    assert f"process {os.getpid()} is installing into .venv" in done.stderr
    assert (clone / ".venv/pyvenv.cfg").exists()


def test_a_folder_that_is_no_environment_is_not_removed(clone: Path) -> None:
    (clone / ".venv/pyvenv.cfg").unlink()
    done = run_in(clone, ".ci/install", TORCH="torch")
    assert done.returncode == 1
    assert "Move it away" in done.stderr
    assert (clone / ".venv/bin").exists()


def test_what_is_there_is_not_removed_where_no_interpreter_is_found(clone: Path) -> None:
    (clone / ".venv/begun").write_text("1 elsewhere\n")
    done = run_in(clone, ".ci/install", TORCH="torch", PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "/no/such/python does not run" in done.stderr
    assert (clone / ".venv/pyvenv.cfg").exists()


@pytest.mark.slow
def test_an_installation_that_fails_leaves_nothing_that_is_taken_for_ready(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    shutil.copy(ROOT / "requirements.lock", clone)
    for before in ("", "made anew: its installation was cut off"):
        done = run_in(clone, ".ci/install", TORCH="torch", PYTHON=sys.executable, PIP_NO_INDEX="1")
        assert done.returncode == 1
        assert "could not be installed" in done.stderr
        assert before in done.stdout
        assert not (clone / ".venv/ready").exists()
        assert is_stale(clone)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_hashed_and_leaves_torch_and_cuda_out(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text()
    assert len(pins(name)) > 100
    assert len(pins(name)) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    assert not [package for package in pins(name) if re.match(r"torch|nvidia|cuda|triton", package)]
    for block in re.split(r"\n(?=\S+==)", text)[1:]:
        assert "--hash=sha256:" in block, block.partition(" ")[0]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_all_that_is_asked_for(name: str) -> None:
    asked = re.findall(r"^([A-Za-z][\w.-]*)", (ROOT / f"{name}.in").read_text(), re.MULTILINE)
    missing = {re.sub(r"[-_.]+", "-", word.lower()) for word in asked} - set(pins(name))
    assert not missing, f"run `make lock`: {missing}"


def test_one_version_of_a_package_is_in_both_locks() -> None:
    first, second = (pins(name) for name in LOCKS)
    assert not {name for name in first.keys() & second.keys() if first[name].split()[0] != second[name].split()[0]}


def test_every_place_names_the_same_pythons_and_the_same_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert project["tool"]["mypy"]["python_version"] == SUPPORTED[0]
    assert project["tool"]["ruff"]["target-version"] == "py311"
    (found,) = re.findall(r'^SUPPORTED="(.*)"$', (ROOT / ".ci/interpreter").read_text(), re.MULTILINE)
    assert found.split() == SUPPORTED[::-1]
    makefile = (ROOT / "Makefile").read_text()
    (torch,) = re.findall(r"^TORCH := torch==(\S+)$", makefile, re.MULTILINE)
    (metadata,) = project["tool"]["uv"]["dependency-metadata"]
    assert (metadata["name"], metadata["version"]) == ("torch", torch)
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "Python 3.11, 3.12 or 3.13" in (ROOT / page).read_text(), page
    assert not re.findall(r"^\t.*python3\.\d", makefile.replace("--python-version 3.11", ""), re.MULTILINE)


def test_the_makefile_keeps_to_what_macos_ships() -> None:
    """GNU make 3.81 has no `!=`, no `.ONESHELL`, no `$(file ...)`, no `undefine` and no `::=`."""
    text = (ROOT / "Makefile").read_text()
    assert not re.findall(r"^\w+ *!=|^\.ONESHELL|\$\(file |^undefine|^\w+ *::=", text, re.MULTILINE)
    for path in (ROOT / ".ci").iterdir():
        code = re.sub(r"(?m)^\s*#.*$", "", path.read_text())
        assert not re.findall(r"mapfile|readarray|declare -A|\$\{\w+[\^,]{1,2}\}|wait -n", code), path.name


def test_the_packages_that_are_installed_agree_with_each_other() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_locks_have_files_for_every_python_and_platform(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not in this environment. `make resolve` installs it and asks the same.")
    words = [
        str(uv),
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--target",
        str(tmp_path / "none"),
        "iniconfig",
    ]
    if subprocess.run([*words, "--python", sys.executable], capture_output=True, check=False).returncode:
        pytest.skip("no package registry answers here")
    done = run_in(ROOT, ".ci/resolve", **{**os.environ, "UV": str(uv), "PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("has files") == 3 * 3 * 3
