"""The errors of the platform, each with its HTTP status and stable code.

::

    PlatformError
    ├── InvalidSpec                422  invalid_spec
    ├── InvalidRequest             422  invalid_request
    ├── InvalidKey                 401  invalid_key
    ├── Forbidden                  403  forbidden
    │   └── QuotaExceeded          403  quota_exceeded
    ├── NotFound                   404  not_found
    │   └── LogUnavailable         404  log_unavailable
    ├── TrackingRefused            409  tracking_refused
    ├── Conflict                   409  conflict
    │   ├── IllegalTransition      409  illegal_transition
    │   ├── GateNotMet             409  gate_not_met
    │   └── IdempotencyConflict    409  idempotency_conflict
    ├── PreconditionFailed         412  precondition_failed
    ├── BodyTooLarge               413  body_too_large
    ├── UnsupportedMediaType       415  unsupported_media_type
    ├── TooManyRequests            429  too_many_requests
    ├── Unavailable                503  unavailable
    │   ├── DatabaseUnavailable    503  database_unavailable
    │   ├── ClusterUnavailable     503  cluster_unavailable
    │   └── TrackingUnavailable    503  tracking_unavailable
    ├── LeaseLost                  (dispatcher only)
    ├── SubmissionRefused          (dispatcher only)
    ├── NotDelivered               (dispatcher only)
    ├── InvalidSettings            (at the start of a process)
    ├── DatabaseTooNew             (at the start of a process)
    └── LocalPlatformError         (``vicreg up`` only)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from vicreg_platform.specs.base import FieldFault


class PlatformError(Exception):
    """The root. Its text is one message: what is wrong, and what to do."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class InvalidSpec(PlatformError):
    """A spec has one or more faults."""

    status = 422
    code = "invalid_spec"
    title = "The spec is not valid"

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "; ".join(f"{f.field}: {f.message}" if f.field else f.message for f in faults)
        )


class InvalidRequest(PlatformError):
    """A request, other than its spec, is not valid."""

    status = 422
    code = "invalid_request"
    title = "The request is not valid"


class InvalidKey(PlatformError):
    """A request has no API key, or one that is not valid."""

    status = 401
    code = "invalid_key"
    title = "A valid API key is needed"


class Forbidden(PlatformError):
    """The role of the API key does not allow the request."""

    status = 403
    code = "forbidden"
    title = "Not allowed"


class QuotaExceeded(Forbidden):
    """The request would exceed the quota of the key's owner."""

    code = "quota_exceeded"
    title = "The quota is used up"


class NotFound(PlatformError):
    """What the request names does not exist."""

    status = 404
    code = "not_found"
    title = "Not found"


class LogUnavailable(NotFound):
    """Ray knows an attempt, and cannot give its log."""

    code = "log_unavailable"
    title = "The log is not available"


class TrackingRefused(PlatformError):
    """MLflow refused a request, for example because the run was deleted."""

    status = 409
    code = "tracking_refused"
    title = "MLflow refused"


class Conflict(PlatformError):
    """The current state does not allow the request."""

    status = 409
    code = "conflict"
    title = "Conflict"


class IllegalTransition(Conflict):
    """The job's state does not allow the change."""

    code = "illegal_transition"
    title = "The job's state does not allow this"


class GateNotMet(Conflict):
    """An encoder's scores are not what its registration requires."""

    code = "gate_not_met"
    title = "The scores are not what is required"

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in faults))


class IdempotencyConflict(Conflict):
    """An idempotency key was used before with another body."""

    code = "idempotency_conflict"
    title = "The idempotency key belongs to another request"


class PreconditionFailed(PlatformError):
    """The job is not in the version that the request names in ``If-Match``."""

    status = 412
    code = "precondition_failed"
    title = "Changed meanwhile"


class BodyTooLarge(PlatformError):
    """The body of a request is over the limit."""

    status = 413
    code = "body_too_large"
    title = "The body is too large"


class UnsupportedMediaType(PlatformError):
    """The body of a request is of a type that is not read."""

    status = 415
    code = "unsupported_media_type"
    title = "The body's type is not read"


class TooManyRequests(PlatformError):
    """An API key has made too many requests in a short time."""

    status = 429
    code = "too_many_requests"
    title = "Too many requests"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"too many requests with this key: retry in {seconds:.0f} s")


class Unavailable(PlatformError):
    """A neighbour of this service is unreachable; a later retry may succeed."""

    status = 503
    code = "unavailable"
    title = "Temporarily unavailable"


class DatabaseUnavailable(Unavailable):
    """The database is unreachable."""

    code = "database_unavailable"


class ClusterUnavailable(Unavailable):
    """The Ray head is unreachable."""

    code = "cluster_unavailable"


class TrackingUnavailable(Unavailable):
    """The MLflow server is unreachable."""

    code = "tracking_unavailable"


class LeaseLost(PlatformError):
    """Another dispatcher has taken over: nothing that this one decided may be written."""


class SubmissionRefused(PlatformError):
    """Ray does not accept a submission."""


class NotDelivered(PlatformError):
    """The receiver of the webhook has not taken an event."""


class InvalidSettings(PlatformError):
    """An environment variable has an invalid value."""


class DatabaseTooNew(PlatformError):
    """A newer version of the platform has migrated the database."""


class LocalPlatformError(PlatformError):
    """``vicreg up`` cannot start, or cannot continue."""
