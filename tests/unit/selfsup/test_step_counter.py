"""Steps and epochs are counted, and what happens every few of them happens on time."""

import pytest

from vicreg_workers.selfsup.step_counter import StepCounter


def after(steps: int) -> StepCounter:
    progress = StepCounter(steps_per_epoch=4, epochs=5, batch_size=8)
    for _ in range(steps):
        progress.step_done()
    return progress


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [])])
def test_the_last_epoch_always_counts(every: int, epochs: list[int]) -> None:
    assert [n for n in range(1, 6) if after(4 * n).every_epochs(every)] == epochs


def test_the_last_step_of_an_epoch_always_counts() -> None:
    assert [n for n in range(1, 10) if after(n).every_steps(3)] == [3, 4, 6, 8, 9]


def test_a_reading_says_how_far_and_how_fast() -> None:
    reading = after(6).read()
    assert (reading.epoch, reading.epochs, reading.step, reading.steps) == (1, 5, 6, 20)
    assert reading.eta_seconds == pytest.approx(14 * 8 / reading.images_per_second)


def test_a_stop_between_training_and_measuring_an_epoch_is_restored() -> None:
    stopped = after(8)
    stopped.epochs_ended = 1
    resumed = after(0)
    resumed.load_state_dict(stopped.state_dict())
    assert (resumed.step, resumed.epochs_ended, resumed.steps_into_epoch()) == (8, 1, 4)
    old = after(0)
    old.load_state_dict({"step": 9})  # a checkpoint of version 0.2.0
    assert (old.epochs_ended, old.steps_into_epoch()) == (2, 1)
