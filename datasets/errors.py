"""The exceptions that are no defects of ours: input that cannot be used, and work of which some parts failed."""


class InputError(ValueError):
    """Bad input from the user's side: one sentence with the value, the place and the way out.

    The command line prints it and exits with code 2; anything else that escapes is a defect of ours.
    """


class UnfinishedError(RuntimeError):
    """Some parts of the work failed and the others are done: one sentence with the count and the way on.

    The command line prints it and exits with code 1.
    """
