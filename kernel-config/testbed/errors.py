"""What the test bed's guests raise."""


class GuestError(Exception):
    """A guest did not do what was asked of it. The message is a sentence for the user."""
