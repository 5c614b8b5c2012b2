"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Bad input from the user's side: one sentence with the value, the place and the way out.

    The command line prints it and exits with code 2; anything else that escapes is a defect of ours.
    """
