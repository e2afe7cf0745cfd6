"""The naive transactor: a set of facts in a dict, one rule after another. The store's transactions are compared with it.

It has its own reading of the forms and shares no code with the store but the error class and the EDN value model.
"""

from __future__ import annotations

from typing import Any

from store.edn import Keyword, strict_key


class Refused(Exception):  # noqa: N818 - it is the model's answer, not a fault of the test
    """The model's word that a transaction is wrong."""


class Model:
    """Facts by (entity, attribute): a dict of strict key to value."""

    def __init__(self, schema: dict[str, dict[str, Any]]) -> None:
        self.schema = {name: {k: str(v) for k, v in props.items()} for name, props in schema.items()}
        self.facts: dict[tuple[int, str], dict[Any, Any]] = {}
        self.top = 0

    def is_(self, attribute: str, key: str, value: str) -> bool:
        """True when an attribute has a schema property."""
        return self.schema[attribute].get(key) == value

    def many(self, attribute: str) -> bool:
        """True for cardinality many."""
        return self.is_(attribute, ":db/cardinality", ":db.cardinality/many")

    def ref(self, attribute: str) -> bool:
        """True for refs."""
        return self.is_(attribute, ":db/valueType", ":db.type/ref")

    def unique(self, attribute: str) -> str | None:
        """The kind of uniqueness, or None."""
        return self.schema[attribute].get(":db/unique")

    def as_set(self) -> set[tuple[int, str, Any]]:
        """All facts."""
        return {(e, a, k) for (e, a), values in self.facts.items() for k in values}

    # -- forms -> flat operations

    def _flatten(self, forms: list[Any]) -> list[tuple[Any, ...]]:
        ops: list[tuple[Any, ...]] = []
        for n, form in enumerate(forms):
            if isinstance(form, dict):
                e = form.get(":db/id", ("auto", n))
                for a, v in form.items():
                    if a == ":db/id":
                        continue
                    members = v if isinstance(v, list | tuple) and self.many(a) else [v]
                    ops.extend(("add", e, a, m) for m in members)
            else:
                ops.append((form[0].split("/")[1], *form[1:]))
        return ops

    def transact(self, forms: list[Any]) -> Model:
        """The model after a transaction; Refused when it is wrong."""
        ops = self._flatten(forms)
        names = self._resolve(ops)

        def entity(x: Any) -> int:
            return names[x] if self._is_temp(x) else x

        after = Model({})
        after.schema = self.schema
        after.facts = {key: dict(values) for key, values in self.facts.items()}
        given: dict[tuple[int, str], Any] = {}
        for op in ops:
            after._apply(op, entity, given)
        after.facts = {key: values for key, values in after.facts.items() if values}
        after._check_unique()
        if after.facts == self.facts:
            return self  # nothing is written, not even that an id was named
        after.top = max([self.top, *(e for e, _ in after.facts), *names.values(), *self._mentioned(ops)])
        return after

    def _mentioned(self, ops: list[tuple[Any, ...]]) -> list[int]:
        ops = [op for op in ops if op[0] in ("add", "cas")]
        out = [op[1] for op in ops if isinstance(op[1], int) and op[1] > 0]
        out += [op[-1] for op in ops if self.ref(op[2]) and isinstance(op[-1], int) and op[-1] > 0]
        return out

    @staticmethod
    def _is_temp(x: Any) -> bool:
        return isinstance(x, str | tuple) or (isinstance(x, int) and x < 0)

    def _resolve(self, ops: list[tuple[Any, ...]]) -> dict[Any, int]:
        """Entities of the temporary names: merged by unique identity until nothing changes, the rest new."""
        names: list[Any] = []
        as_entity = set()
        for op in ops:
            if self._is_temp(op[1]):
                if op[1] not in names:
                    names.append(op[1])
                as_entity.add(op[1])
            if len(op) > 3 and self.ref(op[2]):
                for v in op[3:]:
                    if self._is_temp(v) and v not in names:
                        names.append(v)
        group = {n: {n} for n in names}
        known: dict[Any, int] = {}
        changed = True
        while changed:
            changed = False
            seen: dict[Any, Any] = {}
            for op in ops:
                if op[0] not in ("add", "cas") or self.unique(op[2]) != ":db.unique/identity":
                    continue
                key = (op[2], strict_key(op[-1]))
                holder = next((e for (e, a), vs in self.facts.items() if a == op[2] and key[1] in vs), None)
                e = op[1]
                if holder is not None and self._is_temp(e):
                    changed |= self._know(group, known, e, holder)
                other = seen.setdefault(key, e)
                if other != e:
                    if self._is_temp(other) and self._is_temp(e):
                        if group[e] is not group[other]:
                            joined = group[e] | group[other]
                            for n in joined:
                                group[n] = joined
                            changed = True
                            for n in list(joined):
                                if n in known:
                                    self._know(group, known, e, known[n])
                    elif self._is_temp(e):
                        changed |= self._know(group, known, e, other)
                    elif self._is_temp(other):
                        changed |= self._know(group, known, other, e)
        top = max([self.top, *self._mentioned(ops)])
        for n in names:
            if n in known:
                continue
            if not group[n] & as_entity:
                raise Refused("tempid used only as a value")
            top += 1
            for m in group[n]:
                known[m] = top
        return known

    @staticmethod
    def _know(group: dict[Any, set[Any]], known: dict[Any, int], name: Any, eid: int) -> bool:
        if name in known:
            if known[name] != eid:
                raise Refused("conflicting upserts")
            if all(known.get(n) == eid for n in group[name]):
                return False
        for n in group[name]:
            if known.get(n, eid) != eid:
                raise Refused("conflicting upserts")
            known[n] = eid
        return True

    # -- operations

    def _apply(self, op: tuple[Any, ...], entity: Any, given: dict[tuple[int, str], Any]) -> None:
        name, e = op[0], entity(op[1])
        if name == "retractEntity":
            self._retract_entity(e, given)
            return
        a = op[2]
        key = (e, a)
        values = self.facts.setdefault(key, {})
        args = [entity(v) if self.ref(a) and v is not None else v for v in op[3:]]
        if name == "add":
            k = strict_key(args[0])
            if not self.many(a):
                if key in given and given[key] != k:
                    raise Refused("two values for one")
                given[key] = k
                if k not in values:
                    values.clear()
            values[k] = args[0]
        elif name == "retract" and args:
            values.pop(strict_key(args[0]), None)
            given.pop(key, None)
        elif name in ("retract", "retractAttribute"):
            values.clear()
            given.pop(key, None)
        elif name == "cas":
            old, new = args
            if (old is None and values) or (old is not None and strict_key(old) not in values):
                raise Refused("cas")
            if old is not None:
                del values[strict_key(old)]
            elif not self.many(a):
                values.clear()
            values[strict_key(new)] = new
            given[key] = strict_key(new)

    def _retract_entity(self, e: int, given: dict[tuple[int, str], Any]) -> None:
        todo, seen = [e], set()
        while todo:
            e = todo.pop()
            if e in seen:
                continue
            seen.add(e)
            for key in list(self.facts):
                if key[0] == e:
                    if self.is_(key[1], ":db/isComponent", "True"):
                        todo.extend(self.facts[key].values())
                    self.facts[key].clear()
                    given.pop(key, None)
                elif self.ref(key[1]) and strict_key(e) in self.facts[key]:
                    del self.facts[key][strict_key(e)]
                    given.pop(key, None)

    def _check_unique(self) -> None:
        seen: dict[Any, int] = {}
        for (e, a), values in self.facts.items():
            if self.unique(a):
                for k in values:
                    if seen.setdefault((a, k), e) != e:
                        raise Refused("not unique")


SCHEMA: dict[str, dict[str, Any]] = {
    ":one": {":db/valueType": Keyword("db.type/string")},
    ":many": {":db/valueType": Keyword("db.type/string"), ":db/cardinality": Keyword("db.cardinality/many")},
    ":long": {":db/valueType": Keyword("db.type/long")},
    ":double": {":db/valueType": Keyword("db.type/double"), ":db/index": False},
    ":any": {":db/cardinality": Keyword("db.cardinality/many")},
    ":id": {":db/valueType": Keyword("db.type/string"), ":db/unique": Keyword("db.unique/identity")},
    ":id2": {":db/valueType": Keyword("db.type/long"), ":db/unique": Keyword("db.unique/identity")},
    ":value": {":db/valueType": Keyword("db.type/long"), ":db/unique": Keyword("db.unique/value")},
    ":ref": {":db/valueType": Keyword("db.type/ref")},
    ":refs": {":db/valueType": Keyword("db.type/ref"), ":db/cardinality": Keyword("db.cardinality/many")},
    ":part": {
        ":db/valueType": Keyword("db.type/ref"),
        ":db/cardinality": Keyword("db.cardinality/many"),
        ":db/isComponent": True,
    },
}
