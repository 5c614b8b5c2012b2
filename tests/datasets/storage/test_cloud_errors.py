"""Errors of a store are told by kind, status and code alone."""

import pytest

from datasets.storage.cloud_errors import brief, says_refused

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("text", "words", "refused"),
    [
        (f"status code: 403 Forbidden: <Code>ExpiredToken</Code> {SECRET}", "403 Forbidden ExpiredToken", True),
        (f"status code: 400 Bad Request: <Code>InvalidToken</Code> {SECRET}", "400 Bad Request InvalidToken", True),
        ("status code: 503 Service Unavailable: <Code>SlowDown</Code>", "503 Service Unavailable SlowDown", False),
        (f"PUT http://169.254.169.254/latest/api/token {SECRET}", "no credentials in the environment", True),
        (f"error sending request: dns error: failed to look up {SECRET}.host", "no such host", False),
        ("Received redirect without LOCATION", "moved; perhaps AWS_REGION is another", False),
        ("error sending request: operation timed out", "no answer in time", False),
        ("error decoding response body", "connection lost", False),
        (f"something else with {SECRET}", "RuntimeError", False),
    ],
)
def test_what_an_error_means_without_its_text(text: str, words: str, refused: bool) -> None:
    error = RuntimeError(text)
    assert brief(error) == words
    assert says_refused(error) is refused
