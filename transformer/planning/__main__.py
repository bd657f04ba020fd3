"""What reproduce.sh --plan and --rehearse call, with the commands of its steps on the standard input; and before all
others --task_dir and --size laptop, to know the task, and the BERT."""
from __future__ import annotations

import signal
import sys

from transformer.cli import Parser, positive, run_script
from transformer.files import InputError


def main(argv: list[str] | None = None) -> None:
    """Print the plan, rehearse, or print what a task is. InputError where a package is missing, too: newcomers start
    with a plan."""
    parser = Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", action="store_true", help="print what the run will do and take")
    what.add_argument("--rehearse", action="store_true", help="run each step for a few steps, and measure")
    what.add_argument("--task_dir", metavar="FOLDER", help="print what its task is")
    what.add_argument("--bert", metavar="NAME", help="print the folder that get_bert_models.py makes of it")
    parser.add_argument("--teacher", metavar="FOLDER", help="with --task_dir: refuse it where it cannot be a teacher")
    parser.add_argument("--students", nargs="+", default=[], metavar="FOLDER",
                        help="with --teacher: general students; refuse it where they have another vocabulary; with "
                             "--bert: config folders; refuse it where it cannot teach them")
    parser.add_argument("--augments", action="store_true", help="with --bert: refuse it where it has no masked-LM head")
    parser.add_argument("--language", choices=("english", "chinese"), default="english", help="of the texts")
    parser.add_argument("--jobs", type=positive, default=1, help="steps side by side")
    args = parser.parse_args(argv)
    try:
        if args.task_dir:
            from transformer.planning.own_task import print_task
            print_task(args.task_dir, args.teacher, args.students)
            return
        if args.bert:
            from transformer.planning.small_bert import print_bert
            print_bert(args.bert, args.students, args.augments)
            return
        from transformer.planning.languages import BY_LANGUAGE
        from transformer.planning.plan import print_plan
        from transformer.planning.rehearsal import rehearse
        from transformer.planning.steps import read_steps, works_of
    except ModuleNotFoundError as error:
        raise InputError(f"the package {error.name} is not there: pip install -r requirements.txt") from None
    if args.plan:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--plan | head` ends without a word
    works = works_of(read_steps(sys.stdin.buffer), BY_LANGUAGE[args.language])
    if args.rehearse:
        rehearse(works, args.jobs)
    else:
        print_plan(works, args.jobs)


if __name__ == "__main__":
    sys.argv[0] = "reproduce.sh"  # whose words these are
    sys.exit(run_script(main))
