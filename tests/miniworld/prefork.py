"""Scripts run by a process that has loaded what they load: it forks a copy of itself for each.

    python tests/miniworld/prefork.py SOCKET                     serves until it is killed
    python -S -E tests/miniworld/prefork.py SOCKET SCRIPT ARG    runs a script there; its input, output and exit status

SOCKET is a path from the working directory of both. The second imports almost nothing. A start with torch, matplotlib
and scikit-learn takes two to three seconds of one core, and the chain has some fifty.
"""
import json
import os
import socket
import sys
from pathlib import Path


def serve(path: str) -> None:
    """Fork a copy for each command that comes, which runs it and answers with its exit status."""
    import pkgutil
    import signal

    import matplotlib.pyplot  # noqa: F401
    import nltk  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401

    import transformer
    for module in pkgutil.walk_packages(transformer.__path__, "transformer."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        while True:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies that have ended are forgotten
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(connection)
            connection.close()


def _run(connection: socket.socket) -> None:
    """Run the command that comes in this process, which ends with it."""
    import runpy
    import traceback

    from transformer.stopwatch import STOPWATCH
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    command = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(command["directory"])
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.argv = command["argv"]
    STOPWATCH.facts()  # its time begins now
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:  # noqa: BLE001  as the interpreter does at its end
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    connection.sendall(bytes([status]))
    os._exit(status)


def ask(path: str, argv: list[str]) -> int:
    """Have a script run by the process that serves `path`; its exit status, 1 where it was killed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        command = {"argv": argv, "directory": str(Path.cwd()), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(command).encode()], [0, 1, 2])
        status = connection.recv(1)
    return status[0] if status else 1


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
