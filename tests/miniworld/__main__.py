"""The embedded world on the command line: build it, its other parts, serve it."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformer.cli import Parser, run_script
from transformer.files import atomic_write

from .reviews import write_reviews
from .server import address, make_server
from .world import ensure_world


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `command` is what to do."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)
    build = commands.add_parser("build", help="make everything; a world of the same sources is left as it is")
    teachers = commands.add_parser("teachers", help="make it, and an ELECTRA, a NEZHA and an ALBERT in it")
    chinese = commands.add_parser("chinese", help="make the Chinese part, in a folder of its own")
    reviews = commands.add_parser("reviews", help="write a CSV of made-up reviews, to try prepare_task.py on")
    reviews.add_argument("file", type=Path, help="the CSV")
    serve = commands.add_parser("serve", help="offer a built world on 127.0.0.1 until interrupted")
    for command in (build, teachers, chinese, serve):
        command.add_argument("directory", type=Path, help="the world's folder")
    serve.add_argument("--port", type=int, default=0, help="TCP port, 0 for a free one")
    serve.add_argument("--port_file", type=Path, help="file that gets the port once the server answers")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Do what the command says."""
    args = parse_args(argv)
    if args.command == "build":
        ensure_world(args.directory)
    elif args.command == "teachers":
        from .teachers import ensure_teachers  # only here, as the next: it loads torch
        ensure_teachers(args.directory)
    elif args.command == "chinese":
        from .chinese_bert import ensure_chinese
        ensure_chinese(args.directory)
    elif args.command == "reviews":
        write_reviews(args.file)
    else:
        serve_until_interrupted(args.directory, args.port, args.port_file)


def serve_until_interrupted(directory: Path, port: int, port_file: Path | None) -> None:
    """Offer a world; its port is written into port_file, where one is named, once the server answers."""
    with make_server(directory, port) as server:
        if port_file:
            with atomic_write(port_file) as handle:
                handle.write(f"{server.server_address[1]}\n")
        print(f"serving {directory} at {address(server)}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(run_script(main))
