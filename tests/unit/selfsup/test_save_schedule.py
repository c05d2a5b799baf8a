"""The state is saved every so many epochs, but not more often than every so many seconds."""

from tests.unit.selfsup.processes import Gloo
from vicreg_platform.specs.pretrain import Checkpoint
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.save_schedule import SaveSchedule
from vicreg_workers.selfsup.step_counter import StepCounter


def saved_epochs(seconds_per_epoch: float, **spec: int) -> list[int]:
    """After which of eight epochs the state is saved."""
    now = 0.0
    schedule = SaveSchedule(Checkpoint.model_validate(spec), lambda: now)
    progress = StepCounter(steps_per_epoch=4, epochs=8, batch_size=2)
    epochs = []
    for epoch in range(1, 9):
        progress.step += 4
        now += seconds_per_epoch
        if schedule.is_due(progress):
            schedule.saved()
            epochs.append(epoch)
    return epochs


def test_without_an_interval_every_epoch_is_saved() -> None:
    assert saved_epochs(0.0) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_save_is_skipped_while_the_last_one_is_young() -> None:
    assert saved_epochs(100.0, min_interval_seconds=300) == [1, 4, 7, 8]
    assert saved_epochs(100.0, min_interval_seconds=100) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_only_epochs_that_could_be_saved_are() -> None:
    assert saved_epochs(100.0, min_interval_seconds=300, every_epochs=2) == [2, 6, 8]


def with_a_clock_of_its_own() -> list[int]:
    return saved_epochs(100.0 if rank() == 0 else 1000.0, min_interval_seconds=300)


def test_the_first_workers_clock_decides_for_all(two_processes: Gloo) -> None:
    assert two_processes.run(with_a_clock_of_its_own) == [[1, 4, 7, 8]] * 2
