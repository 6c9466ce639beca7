"""Signatures of webhooks, as https://www.standardwebhooks.com describes them: HMAC-SHA256 over id, time and body."""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping

PREFIX = "whsec_"
_VERSION = "v1"
_SECRET_BYTES = 32


class InvalidSignature(ValueError):
    """The message is not one that the holder of the secret sent lately."""


def new_secret() -> str:
    """A secret of 256 random bits."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """What `webhook-signature` holds for one secret. Raises ValueError for a secret that is none."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("the secret is not base64") from error
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return f"{_VERSION},{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, tolerance_seconds: float = 300) -> str:
    """The message's id, where one of its signatures is that of the secret and its time is close to now; ids repeat when a delivery does.

    Raises InvalidSignature.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, moment = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id or not moment.isascii() or not moment.isdecimal():
        raise InvalidSignature("a header of the message is missing")
    if abs(time.time() - int(moment)) > tolerance_seconds:
        raise InvalidSignature("the message is too old, or the clocks differ")
    expected = signature(secret, message_id, int(moment), body)
    if not any(hmac.compare_digest(expected, found) for found in given.get("webhook-signature", "").split() if found.isascii()):
        raise InvalidSignature("no signature is that of the secret")
    return message_id
