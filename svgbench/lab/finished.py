"""Which nodes of a plan are finished. No torch."""

from __future__ import annotations

from svgbench.config.records import Manifest
from svgbench.lab import shipped
from svgbench.lab.plan import Plan
from svgbench.lab.store import Found, Store
from svgbench.stages import graph


class Finished:
    """A plan's finished nodes, in a store or shipped; each manifest is read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._seen: dict[str, Found] = {}
        for key in plan.nodes:
            self.look(key)

    def keys(self) -> set[str]:
        """Keys of the nodes known to be finished."""
        return set(self._seen)

    def all(self) -> list[Found]:
        """The artifacts of the nodes known to be finished."""
        return list(self._seen.values())

    def look(self, key: str) -> Found | None:
        """The artifact of a node, None as long as it is not finished."""
        if key not in self._seen:
            node = self._plan.nodes[key]
            artifact = self._store.look(node.stage, key, (graph.by_name(node.stage).version, node.identity, node.inputs))
            artifact = artifact or shipped.look(node)
            if artifact is None:
                return None
            self._seen[key] = artifact
        return self._seen[key]

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a node's artifact, None as long as it is not finished."""
        artifact = self.look(key)
        return None if artifact is None else artifact.manifest
