"""What is published: the source archive and the wheel made from it, installed where no checkout is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from dataset_tools import __version__

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; its output is the message where it fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_and_its_date_are_the_same_everywhere() -> None:
    changelog, citation = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    version, date = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", changelog, re.M)[0]
    assert version == __version__
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation


@pytest.mark.slow
def test_the_wheel_from_the_source_archive_trains_from_another_folder(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="the package build is not installed")
    checkout, dist, elsewhere = tmp_path / "checkout", tmp_path / "dist", tmp_path / "elsewhere"
    elsewhere.mkdir()
    # a clean tree: a build leaves files in the folder that it is run in
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("docs/", "tests/", "benchmarks/")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", dist, checkout], cwd=elsewhere, capture_output=True, text=True
    )
    if built.returncode and "Could not find a version" in built.stdout + built.stderr:
        pytest.skip("NO BUILD: the package index, from which the build takes setuptools, cannot be reached")
    assert built.returncode == 0, built.stdout + built.stderr
    assert len(list(dist.glob("*.tar.gz"))) == 1
    (wheel,) = dist.glob("*.whl")
    # the libraries are those of this environment, the package is the wheel's
    venv.create(tmp_path / "venv", with_pip=True)
    inside = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", vars=inside))
    python = Path(sysconfig.get_path("scripts", "venv", vars=inside)) / "python"
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=elsewhere)
    where = run(python, "-c", "import recbole_unisrec; print(recbole_unisrec.__file__)", cwd=elsewhere)
    assert str(site.resolve()) in str(Path(where.strip()).resolve())
    said = run(
        python.with_name("unisrec"),
        "train",
        "--epochs",
        "0",
        "--encoder",
        "lsa",
        "--plm_suffix=feat1LSA",
        cwd=elsewhere,
    )
    assert "UniSRec on ml-100k: 943 users, 1,682 items" in said
    assert run(python.with_name("unisrec"), "--help", cwd=elsewhere).startswith("usage: unisrec COMMAND")
