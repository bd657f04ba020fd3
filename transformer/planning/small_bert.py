"""What reproduce.sh --size laptop asks of the BERT that --teacher names, before hours are spent."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformer.checkpoint import require_masked_lm
from transformer.config import CONFIG_NAME, BertConfig
from transformer.distillation import compared
from transformer.files import InputError
from transformer.kinds import kind_of
from transformer.modeling import student_config
from transformer.planning.steps import load_script, sizes_in_name
from transformer.weights import WEIGHT_NAMES


def print_bert(name: str, students: Sequence[str], augments: bool) -> None:
    """Print the folder below models/ that get_bert_models.py makes of what --teacher names.

    students: config folders. InputError where it names no model, or one that cannot teach the students or, if it
    `augments` data, has no masked-LM head, as far as that is known before it is fetched.
    """
    folder, origin = load_script(str(Path(__file__).parents[2] / "get_bert_models.py")).known_model(name)
    target = Path("models") / folder
    if isinstance(origin, Path) and origin.resolve().parent == target.resolve().parent:
        raise InputError(f"--teacher {name} lies in models/, where the steps write: move it to another folder, from "
                         "which it is copied, or name where it was fetched from")
    config = sizes_in_name(target)
    for place in (origin, target):
        if isinstance(place, Path) and (place / CONFIG_NAME).is_file():
            if what := kind_of(place):
                raise InputError(f"--teacher {name}: {place} {what}")
            config = BertConfig.from_json_file(place / CONFIG_NAME)
            if augments and any((place / weights).is_file() for weights in WEIGHT_NAMES):
                try:
                    require_masked_lm(place)
                except InputError as error:
                    raise InputError(f"{error}; or give --no_augmentation") from None
            break
    for student in students if config else ():
        try:
            compared(student_config(student, config), config, "uniform", ())
        except InputError as error:
            raise InputError(f"--teacher {name} with {student}: {error}, or leave that one out of --students") from None
    print(target)
