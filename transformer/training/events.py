"""The curves of a run for TensorBoard, with --tensorboard. Its package is loaded then alone."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.files import InputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def load_writer() -> type[SummaryWriter]:
    """The class that writes event files; InputError where the package tensorboard is missing or cannot be loaded."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # noqa: BLE001  beside packages that do not fit it raises any
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--tensorboard: the package tensorboard cannot be loaded ({reason}): pip install --upgrade "
                         "tensorboard, or drop the flag") from None
    return SummaryWriter


def remove_events(folder: Path) -> None:
    """Delete the event files in a run's folder."""
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()


class EventFile:
    """An event file in a run's folder: the numbers of its metrics.jsonl, each a curve over the steps.

    It takes the place of earlier ones, of which a run that was killed can have left some with steps that it will do
    again, or without what they had not written yet.
    """

    def __init__(self, writer_class: type[SummaryWriter], folder: Path, lines: Iterable[dict[str, Any]]):
        """writer_class: what load_writer() gives; lines: of metrics.jsonl, what was logged before."""
        remove_events(folder)
        self._writer = writer_class(folder, purge_step=0)  # a TensorBoard that is open forgets what it has of the run
        for line in lines:
            self.add(line)

    def add(self, values: dict[str, Any]) -> None:
        """The numbers of one log at its step; they are on disk when this returns."""
        for name, value in values.items():
            if name != "step" and type(value) in (int, float):
                self._writer.add_scalar(name, value, values["step"])
        self._writer.flush()

    def close(self) -> None:
        """To be called when nothing comes any more."""
        self._writer.close()
