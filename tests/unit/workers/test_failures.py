"""Errors of the training and of torch end a job with the right failure class."""

import pytest
import torch

from vicreg_platform.contract.failure_class import FailureClass
from vicreg_workers.failures import JobFailure, as_job_failures, naming_held_images
from vicreg_workers.selfsup import errors


@pytest.mark.parametrize(
    ("error", "failure_class", "reason"),
    [
        (errors.InvalidInput("no images"), FailureClass.USER, "no images"),
        (errors.Diverged("the loss is nan"), FailureClass.DIVERGED, "the loss is nan"),
        (errors.Stopped("saved"), FailureClass.INFRASTRUCTURE, "saved"),
        (errors.Unreachable("no answer"), FailureClass.INFRASTRUCTURE, "no answer"),
        (
            torch.cuda.OutOfMemoryError("tried to allocate 2 GiB\nmore"),
            FailureClass.OUT_OF_MEMORY,
            "a GPU ran out of memory: use less (tried to allocate 2 GiB)",
        ),
    ],
)
def test_each_error_has_its_failure_class(
    error: Exception, failure_class: FailureClass, reason: str
) -> None:
    with pytest.raises(JobFailure) as caught, as_job_failures("use less"):
        raise error
    assert (caught.value.failure_class, str(caught.value)) == (failure_class, reason)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), as_job_failures("use less"):
        raise KeyError


def test_every_error_of_the_training_is_mapped() -> None:
    for kind in errors.SelfsupError.__subclasses__():
        with pytest.raises(JobFailure), as_job_failures("use less"):
            raise kind("reason")


@pytest.mark.parametrize(
    ("held", "text"),
    [(3 * 2**30, "3.00 GiB of which hold the images: set data.hold to never"), (0, "use less")],
)
def test_images_that_fill_the_gpu_are_named(held: int, text: str) -> None:
    with (
        pytest.raises(JobFailure, match=text) as caught,
        as_job_failures("use less"),
        naming_held_images(held),
    ):
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB\nmore")
    assert caught.value.failure_class is FailureClass.OUT_OF_MEMORY
