"""What a store's error means, in words that hold nothing of its text: that may hold keys and signatures."""

import re

_NOT_THERE = r"169\.254"  # gives credentials to a machine in the cloud; asked when nothing else does
_REFUSED = re.compile(
    "ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|"
    f"RequestTimeToo|{_NOT_THERE}"
)
_KINDS = {
    _NOT_THERE: "no credentials in the environment",
    "dns error": "no such host",
    "redirect": "moved; perhaps AWS_REGION is another",
    "timed ?out|timeout": "no answer in time",
    "connect|reset|body|closed|sending": "connection lost",
}
"""What a store's error says -> what it means, for errors without an HTTP status."""


def says_refused(error: BaseException) -> bool:
    """Whether an error says that the credentials are wrong, expired or not there."""
    return bool(_REFUSED.search(str(error)))


def refusal(name: str, problem: str, done: str) -> str:
    """Say that an object may not be read or written."""
    return (
        f"{name} could not be {done} ({problem}); check the address, and the credentials of the environment "
        "(such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN): wrong, expired or without the right"
    )


def brief(error: BaseException) -> str:
    """HTTP status and code of a store's error, or its kind."""
    text = str(error)
    found = (re.search(pattern, text) for pattern in (r"\b([45]\d\d [A-Z][A-Za-z ]*)", r"<Code>(\w+)</Code>"))
    known = (words for pattern, words in _KINDS.items() if re.search(pattern, text, re.IGNORECASE))
    return " ".join(match[1].strip() for match in found if match) or next(known, type(error).__name__)
