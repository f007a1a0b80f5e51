"""What this engine cannot do, in one line."""

from epvf.errors import UserError


class NotLowerable(UserError):
    """A step that cannot become a program of lanes; the message names what stands in the way."""
