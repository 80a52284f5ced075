"""One input, where it is, and the requests that want it: types only."""

from dataclasses import dataclass, field
from enum import Enum, auto

from app.serving.timeline import Timeline
from app.towers import Inputs, Vectors


class Stage(Enum):
    """Where an item is."""

    HELD = auto()
    WAITING = auto()
    PREPARING = auto()
    READY = auto()
    COMPUTING = auto()
    OVER = auto()


@dataclass(eq=False, slots=True, repr=False)
class Request:
    """What one caller waits for; `rows` are float32 of shape (items, width) by kind.

    `items` are those that have no row yet, with their positions in the request; `held` are those of them that do
    not wait for their turn yet. `timeline` takes their stamps, if somebody wants them.
    """

    rows: dict[str, Vectors]
    arrived: float
    items: "dict[Item, list[int]]" = field(default_factory=dict)
    held: "dict[str, list[Item]]" = field(default_factory=dict)
    over: bool = False
    error: Exception | None = None
    timeline: Timeline | None = None

    @property
    def unfinished(self) -> int:
        """Rows that are missing."""
        return sum(map(len, self.items.values()))


@dataclass(eq=False, slots=True, repr=False)
class Item:
    """One input, computed once for all requests that want it, whichever of them leaves.

    `content` is dropped once it is prepared. `part` is the piece of a failed batch that it is tried again with.
    Seconds: when it was `added`, `taken` to be prepared, `prepared`, and `started` to be computed.
    """

    kind: str
    key: bytes
    content: bytes
    added: float
    stage: Stage = Stage.HELD
    requests: dict[Request, None] = field(default_factory=dict)
    tag: float = 0.0
    taken: float = 0.0
    prepared: float = 0.0
    started: float = 0.0
    inputs: Inputs = field(default_factory=dict)
    tokens: int = 1
    part: "list[Item] | None" = None
