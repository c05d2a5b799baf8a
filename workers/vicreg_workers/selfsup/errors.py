"""What stops a training or an evaluation.

* SelfsupError
  - InvalidInput
  - Diverged
  - Stopped
  - Unreachable
"""

from __future__ import annotations


class SelfsupError(Exception):
    """Root of the errors raised here. The text is for the user."""


class InvalidInput(SelfsupError):
    """The spec and the images do not fit together, or the images cannot be read."""


class Diverged(SelfsupError):
    """A loss, gradient or weight is not finite, or the embeddings collapsed."""


class Stopped(SelfsupError):
    """The context asked the training to stop. Its state is saved."""


class Unreachable(SelfsupError):
    """The store that holds the images does not answer; another attempt may succeed."""
