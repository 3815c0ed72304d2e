"""The one exception that the command line shows as a sentence."""


class UserError(Exception):
    """Something the user can mend. The message is one sentence that says what is wrong and what to do."""
