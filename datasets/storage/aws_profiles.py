"""The only door to boto3: credentials from the profiles in ``~/.aws``, which obstore does not read by itself."""

import os
from pathlib import Path
from typing import Any

from datasets.errors import InputError

_READ_BY_OBSTORE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def profile_credentials() -> Any | None:
    """Return what gives obstore the credentials of a profile, or none.

    In the order of AWS's own tools: keys in the environment, then a profile (``AWS_PROFILE``, or ``default``), then
    what the machine itself may do. `InputError` where the profile that ``AWS_PROFILE`` names, or boto3, is not there.
    """
    if any(os.environ.get(name) for name in _READ_BY_OBSTORE):
        return None
    profile = os.environ.get("AWS_PROFILE")
    if not profile and not any(path.is_file() for path in _files()):
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if not profile:
            return None
        raise InputError(
            f"AWS_PROFILE is {profile!r}, but profiles are read by boto3, which is not installed; install the extra "
            "`aws`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session())
    except BotoCoreError as error:
        raise InputError(
            f"the AWS profile {profile or 'default'!r} cannot be used ({type(error).__name__}); correct AWS_PROFILE or "
            f"{' and '.join(map(str, _files()))}"
        ) from None
    except ValueError:  # the files hold no credentials: the machine itself may still have some
        if not profile:
            return None
        raise InputError(f"the AWS profile {profile!r} holds no credentials; correct AWS_PROFILE") from None


def _files() -> list[Path]:
    named = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))
    return [Path(os.environ.get(variable) or place).expanduser() for variable, place in named]
