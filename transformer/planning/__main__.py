"""What reproduce.sh --plan calls, with the commands of its steps on the standard input."""
from __future__ import annotations

import sys

from transformer.cli import Parser, positive, run_script
from transformer.planning.plan import print_plan
from transformer.planning.steps import read_steps, works_of


def main(argv: list[str] | None = None) -> None:
    """Print the plan."""
    parser = Parser(__doc__)
    parser.add_argument("--plan", action="store_true", required=True, help="print what the run will do and take")
    parser.add_argument("--jobs", type=positive, default=1, help="steps side by side")
    args = parser.parse_args(argv)
    print_plan(works_of(read_steps(sys.stdin.buffer)), args.jobs)


if __name__ == "__main__":
    sys.argv[0] = "reproduce.sh"  # whose words these are
    sys.exit(run_script(main))
