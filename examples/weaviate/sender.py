"""Sends objects to a collection. While Weaviate or its container is away it waits, and then sends them again."""

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import weaviate
from clip_example import Failed, container_problem, one_line
from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter
from weaviate.exceptions import WeaviateBaseError, WeaviateInsertManyAllFailedError

# What is said of an object that did not reach the container, or to which it or a proxy said 502, 503 or 504.
_AWAY = re.compile(
    r"dial |proxyconnect |status 50[234]|UNAVAILABLE|leader not found|shutdown in progress|shut or dropped"
)

# And where nobody knows whether the picture is to blame: the connection broke, or the answer took too long.
_UNCLEAR = re.compile(r"send POST request|read response body|status 5\d\d|deadline exceeded|context canceled", re.I)

_TRIES_IF_UNCLEAR = 3
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class Failure:
    """Why an object was not imported. What is `away` may come back; what is `unclear` is worth another try."""

    reason: str
    away: bool
    unclear: bool

    @classmethod
    def of(cls, reason: str) -> "Failure":
        away = bool(_AWAY.search(reason))
        return cls(reason, away, not away and bool(_UNCLEAR.search(reason)))

    @property
    def is_final(self) -> bool:
        return not self.away and not self.unclear


class Sender:
    """Sends to one collection; `show` gets what it waits for, and an empty text once that is over."""

    def __init__(
        self,
        client: weaviate.WeaviateClient,
        collection: str,
        inference_url: str | None,
        patience: float,
        show: Callable[[str], None],
    ) -> None:
        """Gives up `patience` seconds after nothing has been imported or refused; 0 does not wait at all."""
        self._client = client
        self._collection = client.collections.use(collection)
        self._inference_url = inference_url
        self._patience = patience
        self._show = show
        self._away_since: float | None = None
        self._answers = True  # whether the last object sent was imported or refused

    def wait_for_container(self) -> None:
        """Return once Weaviate and its container answer; raises Failed if that takes too long."""
        if problem := self._problem():
            self._wait(problem, pause=1)
            self._is_back()

    def existing(self, ids: list[uuid.UUID]) -> set[uuid.UUID]:
        """Those of the ids that the collection has already."""
        pause = 0.0
        while True:
            try:
                answer = self._collection.query.fetch_objects(
                    filters=Filter.by_id().contains_any(ids), limit=len(ids), return_properties=[]
                )
            except WeaviateBaseError as error:
                if pause and not self._problem():
                    raise  # Weaviate is there, and fails at this
                self._wait(f"Weaviate does not answer ({one_line(error)})", pause)
                pause = _longer(pause)
            else:
                if pause:
                    self._is_back()
                return {each.uuid for each in answer.objects}

    def send(self, objects: list[DataObject]) -> dict[int, str]:
        """Import the objects; what is wrong with those that cannot be imported, by their place in the list."""
        failures = self._insert(objects)
        final = {
            index: failure if failure.is_final else self._send_alone(objects[index], failure)
            for index, failure in sorted(failures.items())
        }
        return {index: failure.reason for index, failure in final.items() if failure}

    def _send_alone(self, one: DataObject, failure: Failure) -> Failure | None:
        """Send one object, which failed so, until it is imported or refused."""
        unclear, pause = 0, 0.0
        while True:
            if pause or not self._answers:
                self._wait(failure.reason, pause)
            failed = self._insert([one])
            if not failed:
                return None
            failure = failed[0]
            unclear += failure.unclear
            if failure.is_final or unclear == _TRIES_IF_UNCLEAR:
                return failure
            pause = _longer(pause)

    def _insert(self, objects: list[DataObject]) -> dict[int, Failure]:
        """Send the objects once; why some failed, by their place in the list."""
        try:
            result = self._collection.data.insert_many(objects)
        except WeaviateInsertManyAllFailedError as error:
            # The client gives the reasons as a set, a line each, and not which object has which.
            reasons = str(error).partition("set of all errors: ")[2] or str(error)
            if len(objects) == 1:
                return self._all(objects, Failure.of(one_line(reasons)))
            failures = [Failure.of(one_line(reason)) for reason in reasons.splitlines()]
            if any(each.is_final for each in failures):
                return self._insert_halves(objects)
            return self._all(objects, next((each for each in failures if each.away), failures[0]))
        except WeaviateBaseError as error:
            if problem := self._problem():
                return self._all(objects, Failure(problem, away=True, unclear=False))
            failure = Failure.of(one_line(error))
            return self._all(objects, failure) if failure.away or len(objects) == 1 else self._insert_halves(objects)
        self._is_back()
        return {index: Failure.of(one_line(error.message)) for index, error in result.errors.items()}

    def _insert_halves(self, objects: list[DataObject]) -> dict[int, Failure]:
        half = len(objects) // 2
        first, second = self._insert(objects[:half]), self._insert(objects[half:])
        return first | {half + index: failure for index, failure in second.items()}

    def _all(self, objects: list[DataObject], failure: Failure) -> dict[int, Failure]:
        if failure.is_final:
            self._is_back()
        else:
            self._answers = False
        return dict.fromkeys(range(len(objects)), failure)

    def _wait(self, reason: str, pause: float) -> None:
        """Pause, and go on so until Weaviate and its container answer; raises Failed if that takes too long."""
        if self._away_since is None:
            self._away_since = time.monotonic()
        end = self._away_since + self._patience
        while True:
            left = end - time.monotonic()
            if left <= 0:
                waited = f", for {_in_words(self._patience)} now" if self._patience else ""
                raise Failed(f"{reason}{waited}; run the same command again to go on")
            if pause:
                self._show(f"waiting for {_in_words(left)} at most: {reason}")
                time.sleep(min(pause, left))
            problem = self._problem()
            if not problem:
                return
            reason, pause = problem, 1

    def _is_back(self) -> None:
        self._answers = True
        if self._away_since is not None:
            self._away_since = None
            self._show("")

    def _problem(self) -> str | None:
        """Why it makes no sense to send anything now, as far as Weaviate can tell."""
        try:
            if not self._collection.exists():
                return f"Weaviate has no collection {self._collection.name}"
            return container_problem(self._client, self._inference_url)
        except (WeaviateBaseError, httpx.HTTPError) as error:
            return f"Weaviate does not answer ({one_line(error)})"


def _longer(pause: float) -> float:
    return min(pause + 1, _LONGEST_PAUSE)


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
