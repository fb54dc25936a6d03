"""What the test bed raises."""


class GuestError(Exception):
    """A guest did not do what was asked of it. The message is a sentence for the user."""


class BuildError(Exception):
    """A kernel could not be built. The message says which step failed, and ends with its last words."""
