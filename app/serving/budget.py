"""What requests may take of the memory: asked before anything is allocated."""

from app.errors import BodyTooLarge, Overloaded
from app.settings import Settings


class Budget:
    """The memory that all requests share. Used on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.body_bytes = 0


class Admission:
    """One request's share of the memory for bodies."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Account for `size` more bytes; raises BodyTooLarge or Overloaded."""
        settings = self._budget.settings
        if self.size + size > settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body has more than the {settings.max_body_bytes} bytes allowed; send less at once"
            )
        if self._budget.body_bytes + size > settings.max_waiting_bytes:
            raise Overloaded("too many large requests wait; try again in a moment")
        self.size += size
        self._budget.body_bytes += size

    def release(self) -> None:
        """Give everything back."""
        self._budget.body_bytes -= self.size
        self.size = 0
