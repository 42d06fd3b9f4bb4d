"""What object stores and boto3 raise, as one sentence each that says what to change.

Everything that they raise is a ``BotoCoreError``, a ``ClientError`` or one of boto3's own. It is
turned into this project's errors here and nowhere else, once, at the border.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from effnet_core.errors import ConfigError, Conflict, StoreBusy, StoreError

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (storage.profile)"
MISSING = ("404", "NoSuchKey", "NotFound")
"""What a missing object is called; requests without an answer's body know only the number."""

OF_ONE_OBJECT = {
    "NoSuchKey": "the object does not exist any more",
    "InvalidObjectState": "the object is in an archive",
    "AccessDenied": "access denied",
}
"""Refusals that say nothing of a bucket's other objects, as reasons for leaving one out."""

NOT_S3 = (
    "does not answer as S3 does; is the endpoint right (storage.endpoint_url, AWS_ENDPOINT_URL)?"
)
BARE = ("400", "404", "405", "501")
"""An S3 server gives a code with these, except to HEAD, which has no answer's body."""

CONFLICTS = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")

REASONS = {
    "InvalidAccessKeyId": f"the access key id is unknown to the server; {CREDENTIALS}",
    "SignatureDoesNotMatch": (
        f"the secret access key does not belong to the access key id; {CREDENTIALS}"
    ),
    "AccessDenied": "the credentials are valid, but give no right to do this; ask for the right, "
    "or use others",
    "403": "the server forbids it: the credentials are wrong or give no right to do this; "
    "ask for the right, or use others",
    "401": f"the server wants other credentials; {CREDENTIALS}",
    "AllAccessDisabled": "the account is disabled",
    "NoSuchBucket": "the bucket does not exist; create it, or correct the address",
    "InvalidBucketName": "the bucket's name is not allowed; correct the address",
    "NoSuchKey": "the object does not exist",
    "404": "it does not exist",
    "NoSuchUpload": "the upload is not known any more",
    "RequestTimeTooSkewed": "the clock of this machine or of the server is wrong; set it right",
    "ExpiredToken": "the session token has expired; log in again",
    "ExpiredTokenException": "the session token has expired; log in again",
    "InvalidToken": "the session token is not valid; log in again",
    "PermanentRedirect": "the bucket is in another region; set storage.region",
    "AuthorizationHeaderMalformed": "the region is wrong; set storage.region",
    "IllegalLocationConstraintException": "the bucket is in another region; set storage.region",
    "301": "the bucket is in another region; set storage.region",
    "BadDigest": "the data was damaged on the way; try again",
    "InvalidRequest": "the server does not accept the request",
    "KeyTooLongError": "the key is too long",
    "EntityTooLarge": "it is larger than the server accepts",
    "InvalidRange": "the object is shorter than before",
    "InvalidObjectState": "the object is in an archive; restore it first",
    "QuotaExceeded": "the store is full",
    "NotImplemented": "the server cannot do this",
    "MethodNotAllowed": "the server does not allow this; is the endpoint an S3 server?",
}

BUSY = (
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
    *("ServiceUnavailable", "InternalError", "RequestTimeout", "BadDigest", "OperationAborted"),
    *("429", "500", "502", "503", "504"),
)
"""Answers after which the same request may succeed later."""


@contextmanager
def explained(what: str, where: str = "") -> Iterator[None]:
    """Turn what boto3 raises inside the block into an error whose message starts with ``what``.

    Args:
        what: such as ``s3://bucket/key cannot be read``.
        where: the endpoint, for errors of the connection.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as cause:
        raise _error(what, where, cause) from cause
    except ValueError as cause:
        if "Invalid endpoint" in str(cause):
            raise ConfigError(
                f"{what}: the endpoint {where!r} is not an address of a server; give one that starts "
                "with http:// or https:// (storage.endpoint_url, AWS_ENDPOINT_URL)"
            ) from cause
        raise


def code_of(error: Exception) -> str:
    """The code of a server's refusal, such as ``NoSuchKey`` or ``404``; empty for other errors."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _error(what: str, where: str, cause: Exception) -> StoreError | ConfigError:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import ClientError

    if isinstance(cause, Boto3Error):  # the reason is inside, or only in its text
        inner = cause.__cause__ or cause.__context__
        if isinstance(inner, Exception) and not isinstance(inner, Boto3Error):
            return _error(what, where, inner)
        found = re.search(r"\((\w+)\) when calling", str(cause))
        return _refusal(what, found[1] if found else "", str(cause))
    if isinstance(cause, ClientError):
        message = str(cause.response.get("Error", {}).get("Message", ""))
        status = str(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        bare = status in BARE and code_of(cause) in ("", status)
        if bare and not cause.operation_name.startswith("Head"):
            return StoreError(f"{what}: the server{f' {where}' if where else ''} {NOT_S3}")
        return _refusal(what, code_of(cause), message, status)
    return _local(what, where, cause)


def _refusal(what: str, code: str, message: str, status: str = "") -> StoreError:
    """The error for an answer of the server."""
    if code in CONFLICTS or status == "412":
        return Conflict(f"{what}: somebody else changed it first; read it again and decide anew")
    if code in REASONS and code not in BUSY:
        return StoreError(f"{what}: {REASONS[code]}")
    if code in BUSY or status in BUSY:
        reason = REASONS.get(code, f"the server is busy or failing ({code or status})")
        return StoreBusy(f"{what}: {reason}; try again later")
    if status in REASONS:
        return StoreError(f"{what}: {REASONS[status]}")
    shown = " ".join(message.split())[:200]
    return StoreError(
        f"{what}: the server refuses it ({code or status or 'no code'}{': ' if shown else ''}{shown})"
    )


def _local(what: str, where: str, cause: Exception) -> StoreError | ConfigError:
    """The error for what went wrong on this side or on the way."""
    for types, kind, text in _local_reasons(f" {where}" if where else ""):
        if isinstance(cause, types):
            facts = {"cred_var": "", "profile": "", **getattr(cause, "kwargs", {})}
            return kind(f"{what}: {text.format(**facts)}")
    return StoreError(f"{what}: {' '.join(str(cause).split())[:200]}")


def _local_reasons(
    server: str,
) -> tuple[tuple[tuple[type[Exception], ...], type[StoreError] | type[ConfigError], str], ...]:
    """What is said of each of botocore's own errors; the first that fits counts."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    server = server.replace("{", "{{").replace("}", "}}")
    return (
        (
            (boto.PartialCredentialsError,),
            StoreError,
            f"the S3 credentials lack {{cred_var}}; {CREDENTIALS}",
        ),
        (
            (boto.NoCredentialsError, boto.CredentialRetrievalError),
            StoreError,
            f"there are no S3 credentials; {CREDENTIALS}",
        ),
        (
            (boto.ProfileNotFound,),
            ConfigError,
            "profile {profile!r} is not in the AWS configuration; add it there, or correct "
            "storage.profile or AWS_PROFILE",
        ),
        (
            (boto.SSLError,),
            StoreError,
            f"no secure connection to{server or ' the server'}; does it speak http instead of https, "
            "or is its certificate unknown here?",
        ),
        (
            (boto.ConnectTimeoutError, boto.ReadTimeoutError),
            StoreBusy,
            f"the server{server} gave no answer in time; try again later",
        ),
        (
            (boto.EndpointConnectionError,),
            StoreBusy,
            f"the server{server} cannot be reached; is it up, and is the endpoint right "
            "(storage.endpoint_url, AWS_ENDPOINT_URL)?",
        ),
        (
            (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError),
            StoreBusy,
            f"the connection{' to' + server if server else ''} broke; try again",
        ),
        (
            (boto.FlexibleChecksumError, boto.ChecksumError),
            StoreBusy,
            "the data was damaged on the way; try again",
        ),
        (
            (ResponseParserError,),
            StoreError,
            f"the server{server} {NOT_S3}",
        ),
    )
