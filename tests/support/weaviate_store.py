"""Weaviate's classes, objects and exact search in memory, with vectors of the real service."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.weaviate_client import GoClient, ModuleError, Vector
from tests.support.weaviate_module import ClassSettings, Module, cosine_distances

# Weaviate's check of a blob.
_BLOB = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})")

# What Weaviate adds to a class.
_CLASS_DEFAULTS = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"preset": "en", "additions": None, "removals": None},
    },
    "multiTenancyConfig": {"enabled": False},
    "replicationConfig": {"factor": 1, "asyncEnabled": False, "deletionStrategy": "NoAutomatedResolution"},
    "shardingConfig": {
        "virtualPerPhysical": 128,
        "desiredCount": 1,
        "actualCount": 1,
        "desiredVirtualCount": 128,
        "actualVirtualCount": 128,
        "key": "_id",
        "strategy": "hash",
        "function": "murmur3",
    },
}
_HNSW_DEFAULTS = {
    "skip": False,
    "cleanupIntervalSeconds": 300,
    "maxConnections": 32,
    "efConstruction": 128,
    "ef": -1,
    "dynamicEfMin": 100,
    "dynamicEfMax": 500,
    "dynamicEfFactor": 8,
    "vectorCacheMaxObjects": 1_000_000_000_000,
    "flatSearchCutoff": 40_000,
    "distance": "cosine",
    "filterStrategy": "sweeping",
}


@dataclass(frozen=True)
class Stored:
    """An object: its properties, and its vectors by name."""

    properties: dict[str, Any]
    vectors: dict[str, Vector]


class Invalid(Exception):
    """A class that Weaviate refuses."""


class Store:
    """Classes and their objects. The container can be changed; `fault` may say why an object does not reach it."""

    def __init__(self, container: str) -> None:
        self.classes: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, dict[str, Stored]] = {}
        self.fault: Callable[[dict[str, Any]], str | None] = lambda properties: None
        self.connect_container(container)

    def connect_container(self, url: str) -> None:
        self.client = GoClient(url)
        self.module = Module(self.client, at_once=2 * (os.cpu_count() or 1))

    def vectors(self, class_name: str) -> dict[str, ClassSettings]:
        """The settings of each vector of a class."""
        config = self.classes[class_name]["vectorConfig"]
        return {name: ClassSettings.parse(each["vectorizer"]["multi2vec-clip"]) for name, each in config.items()}

    def types(self, class_name: str) -> dict[str, str]:
        """The data type of each property of a class."""
        return {each["name"]: each["dataType"][0] for each in self.classes[class_name]["properties"]}

    def create(self, definition: dict[str, Any]) -> dict[str, Any]:
        """A new class; what Weaviate makes of its definition. Raises Invalid."""
        types = {each["name"]: each["dataType"] for each in definition["properties"]}
        for vector in definition["vectorConfig"].values():
            settings = ClassSettings.parse(vector["vectorizer"]["multi2vec-clip"])
            fields = [*settings.text_fields, *settings.image_fields]
            if len(fields) > 1 and any(types[name] == ["blobHash"] for name in fields):
                raise Invalid("blobHash property cannot be combined with other vectorizable fields")
            vector.setdefault("vectorIndexType", "hnsw")
            vector["vectorIndexConfig"] = _HNSW_DEFAULTS | vector.get("vectorIndexConfig", {})
        for each in definition["properties"]:
            is_text = each["dataType"] in (["text"], ["text[]"])
            each |= {"indexFilterable": True, "indexSearchable": is_text, "indexRangeFilters": False}
            if is_text:
                each["tokenization"] = "word"
        name = definition["class"]
        self.classes[name], self.objects[name] = _CLASS_DEFAULTS | definition, {}
        return self.classes[name]

    def delete(self, class_name: str) -> None:
        del self.classes[class_name], self.objects[class_name]

    def put(self, class_name: str, objects: list[tuple[str, dict[str, Any]]]) -> list[str | None]:
        """Vectorize and store objects, (id, properties) each; for each why it failed, or None."""
        types = self.types(class_name)
        reasons: list[list[str]] = [[] for _ in objects]
        vectors: list[dict[str, Vector]] = [{} for _ in objects]
        for (_, properties), reason in zip(objects, reasons, strict=True):
            for name, value in properties.items():
                if types[name] in ("blob", "blobHash") and not _BLOB.fullmatch(value):
                    reason.append(f"invalid blob property '{name}' on class '{class_name}'")
            if fault := self.fault(properties):
                reason.append(fault)
        valid = [index for index, reason in enumerate(reasons) if not reason]
        for name in self.vectors(class_name):
            wanted = []
            for index in valid:
                if (kept := self._kept(class_name, objects[index], name)) is None:
                    wanted.append(index)
                else:
                    vectors[index][name] = kept
            settings = self.vectors(class_name)[name]
            results = self.module.vectorize_batch([objects[index][1] for index in wanted], settings)
            for index, result in zip(wanted, results, strict=True):
                if isinstance(result, ModuleError):
                    reasons[index].append(str(result))
                else:
                    vectors[index][name] = result
        for (id_, properties), reason, rows in zip(objects, reasons, vectors, strict=True):
            if not reason:
                self.objects[class_name][id_] = Stored(_as_stored(properties, types), rows)
        return ["\n".join(reason) or None for reason in reasons]

    def _kept(self, class_name: str, one: tuple[str, dict[str, Any]], vector: str) -> Vector | None:
        """The vector of an object that is there with the same fields: Weaviate keeps it."""
        there = self.objects[class_name].get(one[0])
        settings = self.vectors(class_name)[vector]
        new = _as_stored(one[1], self.types(class_name))
        fields = (*settings.text_fields, *settings.image_fields)
        if there and all(there.properties.get(name) == new.get(name) for name in fields):
            return there.vectors[vector]
        return None

    def distances(self, class_name: str, queries: dict[str, Vector]) -> dict[str, Vector]:
        """Of every object, in order, to the query of each named vector."""
        objects = self.objects[class_name].values()
        return {
            name: cosine_distances(query, np.array([each.vectors[name] for each in objects]))
            for name, query in queries.items()
        }


def _as_stored(properties: dict[str, Any], types: dict[str, str]) -> dict[str, Any]:
    return {
        name: hashlib.sha256(value.encode()).hexdigest() if types[name] == "blobHash" else value
        for name, value in properties.items()
    }
