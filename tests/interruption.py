"""A kill in the middle of an epoch."""

from collections.abc import Iterator

from divfeat.data.batches import Batch, BatchStream


class Killed(Exception):
    pass


class Cut:
    """Batches of which a kill takes the rest after (epoch, step)."""

    def __init__(self, batches: BatchStream, at: tuple[int, int]) -> None:
        self.batches, self.at, self.steps_per_epoch = batches, at, batches.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(self.batches.epoch(epoch, start_step), start_step + 1):
            yield batch
            if (epoch, step) == self.at:
                raise Killed
