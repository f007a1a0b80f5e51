"""In which order nodes are computed, so that few numbers have to be kept at a time."""

from collections.abc import Callable, Iterable, Sequence

from epvf.tasks.engines.lanes.graph import Graph, Node

Needs = Callable[[Node], Sequence[Node]]
"""What has to be there before a node, that has to be computed itself."""


class Nesting:
    """Which nodes belong into which loops, and what these need from outside.

    Attributes:
        externals: by loop, what does not change in its rounds and must be there before the first.
    """

    def __init__(self, graph: Graph, live: Sequence[Node]) -> None:
        self._graph = graph
        self._inside: dict[Node, frozenset[Node]] = {}
        self.externals: dict[Node, list[Node]] = {}
        loops = [node for node in live if graph.ops[node] == "loop"]
        owner = {v: node for node in loops for v in graph.loops[node].variables.values()}
        for node in live:
            if graph.ops[node] == "loop":
                self.externals[node] = self._externals(node)
            own = frozenset([owner[node]] if node in owner else ())
            self._inside[node] = own.union(*(self._inside[part] for part in self.needs(node)))

    def needs(self, node: Node) -> Sequence[Node]:
        """What has to be there before a node, constants and inputs too."""
        graph = self._graph
        if graph.ops[node] == "loop":
            return [*graph.loops[node].initial.values(), *self.externals[node]]
        return list(graph.children(node))

    def _externals(self, node: Node) -> list[Node]:
        loop = self._graph.loops[node]
        found: set[Node] = set()
        seen: set[Node] = set()
        waiting = [loop.condition, *loop.updates.values()]
        while waiting:
            part = waiting.pop()
            if part in seen:
                continue
            seen.add(part)
            if node in self._inside[part]:
                waiting.extend(self.needs(part))
            elif self._graph.ops[part] != "const":
                found.add(part)
        return sorted(found)


def order(roots: Iterable[Node], needs: Needs) -> list[Node]:
    """All that the roots need, in depth-first order.

    But a node that is the last to need another comes as soon as it can: what it needs is then no
    longer kept.
    """
    first = _depth_first(roots, needs)
    parts = {node: set(needs(node)) for node in first}
    users: dict[Node, list[Node]] = {node: [] for node in first}
    for node in first:
        for part in parts[node]:
            users[part].append(node)
    missing = {node: len(parts[node]) for node in first}
    waited_for = {node: len(users[node]) for node in first}
    done: set[Node] = set()
    out: list[Node] = []
    for root in first:
        stack = [root]
        while stack:
            node = stack.pop()
            if node in done or missing[node]:
                continue
            done.add(node)
            out.append(node)
            for user in users[node]:
                missing[user] -= 1
            for part in parts[node]:
                waited_for[part] -= 1
            candidates = set(users[node])
            for part in parts[node]:
                if waited_for[part] == 1:
                    candidates.update(users[part])
            stack += [
                user
                for user in sorted(candidates)
                if user not in done
                and not missing[user]
                and any(waited_for[part] == 1 for part in parts[user])
            ]
    return out


def _depth_first(roots: Iterable[Node], needs: Needs) -> list[Node]:
    out: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        stack = [(root, iter([root]))]
        while stack:
            node, rest = stack[-1]
            part = next(rest, None)
            if part is None:
                stack.pop()
                if stack:
                    out.append(node)
            elif part not in seen:
                seen.add(part)
                stack.append((part, iter(needs(part))))
    return out
