"""Texts without passwords and signatures: MLflow, logs and pages are read by more people than an address is for."""

import re

_QUERY = "sig|token|credential|key|passw|secret|auth"
_SECRET = re.compile(
    rf"(?<=://)[^/@\s'\"]+(?=@)|(?<=[?&])([^=&\s'\"]*(?:{_QUERY})[^=&\s'\"]*)=[^&\s'\"]+", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """Leave out the user of an address, and the values of its query that open what it names."""
    return _SECRET.sub("***", text)
