"""Texts without passwords and signatures: MLflow, logs and pages are read by more people than an address is for."""

import re

_HOST = r"(?=[\w.\-\[\]:]+(?:[/?\s'\",)\]]|$))"
_USER = rf"(?<=://)(?:[^\s:/@'\"]{{0,256}}:[^\s]{{1,256}}?|[^\s:/@'\"]{{1,256}})@{_HOST}"
_KEY = r"[^=&?\s'\"]{0,64}"
_VALUE = rf"(?<=[?&]){_KEY}(?:sig|token|credential|key|passw|secret|auth){_KEY}=[^&\s'\"]+"
_USERS, _VALUES = re.compile(_USER), re.compile(_VALUE, re.IGNORECASE)
MASK = "***"


def without_secrets(text: str) -> str:
    """Leave out the user of an address, and the values of its query that open what it names.

    A password may hold all but a blank, as SQLAlchemy takes it; rather too much is left out than too little.
    """
    return _VALUES.sub(MASK, _USERS.sub(f"{MASK}@", text))
