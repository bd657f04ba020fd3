"""tests/miniworld/prefork.py: a script that it runs cannot tell, nor can who calls it."""
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, started

PREFORK = ROOT / "tests" / "miniworld" / "prefork.py"
SCRIPT = """
import os, signal, sys
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], __name__, os.getpid())
print("error", file=sys.stderr)
print(sys.stdin.read(), file=sys.stderr)
if sys.argv[1] == "kill": os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "raise": raise ValueError("of the script")
sys.exit(int(sys.argv[1]))
"""


def test_scripts_run_as_if_they_were_started(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WORD": "of the server"}
    with started(sys.executable, PREFORK, "socket", cwd=tmp_path, env=environment) as server:
        while not (tmp_path / "socket").exists():
            assert server.poll() is None, server.stderr.read()

        def call(*argv: str) -> subprocess.CompletedProcess:
            return subprocess.run([sys.executable, "-S", "-E", PREFORK, "socket", "script.py", *argv], cwd=tmp_path,
                                  env=environment | {"WORD": argv[-1]}, input=f"in {argv}", capture_output=True,
                                  text=True)

        for status, argv in ((0, ["0", "a b"]), (7, ["7", "c"]), (1, ["raise", "d"]), (1, ["kill", "e"])):
            run = call(*argv)
            assert run.returncode == status and run.stderr.startswith(f"error\nin {(*argv,)}\n")
            assert run.stdout.startswith(f"{argv} {tmp_path} {argv[-1]} __main__ ") or argv[0] == "kill"
            assert ("ValueError: of the script" in run.stderr) == (argv[0] == "raise")
        assert call("0").stdout.split()[-1] != call("0").stdout.split()[-1]  # a process for each
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0)
