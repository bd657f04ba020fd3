"""What `make` installs: silent where all is well, and clear where it is not. With a wheel made here, from no index."""
import base64
import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, zipped


def write_wheel(folder) -> None:
    files = {"tiny_wheel.py": b"",
             "tiny_wheel-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n",
             "tiny_wheel-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    sums = {name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            for name, content in files.items()}
    record = "".join(f"{name},sha256={sums[name]},{len(content)}\n" for name, content in files.items())
    record += "tiny_wheel-1.0.dist-info/RECORD,,\n"
    folder.mkdir()
    (folder / "tiny_wheel-1.0-py3-none-any.whl").write_bytes(
        zipped({**files, "tiny_wheel-1.0.dist-info/RECORD": record.encode()}))


@pytest.fixture
def make(tmp_path):
    """Run the Makefile's `.venv/runtime` with these requirements: the finished process. A place of wheels that is not
    there makes pip warn."""
    write_wheel(tmp_path / "wheels")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)

    def call(requirements: str) -> subprocess.CompletedProcess:
        (tmp_path / "requirements.txt").write_text(requirements)
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_TARGET": str(tmp_path / "site"),
               "PIP_FIND_LINKS": f"{tmp_path / 'wheels'} {tmp_path / 'missing'}"}
        return subprocess.run(["make", "PYTHON=true", ".venv/runtime"], cwd=tmp_path, text=True, capture_output=True,
                              env={name: value for name, value in os.environ.items()
                                   if not name.startswith(("PIP_", "MAKE"))} | pip)
    return call


def test_installing_prints_one_line_and_no_warning(make, tmp_path):
    done = make("tiny-wheel==1.0\n")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    line, = done.stdout.splitlines()
    assert line.startswith("installing ") and "requirements.txt" in line
    assert (tmp_path / "site" / "tiny_wheel.py").is_file() and (tmp_path / ".venv" / "runtime").is_file()


def test_errors_of_pip_are_shown(make, tmp_path):
    done = make("tiny-wheel==2.0\n")
    assert done.returncode != 0 and not (tmp_path / ".venv" / "runtime").exists()
    assert "ERROR: No matching distribution found for tiny-wheel==2.0" in done.stderr
    assert "pip install -r requirements.txt\n" in done.stderr  # how to see more
