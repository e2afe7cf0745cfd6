"""The stage record: for each kind of data its stage, percentage and preferences, with the history of moves.

Immutable values and their EDN text; who keeps the text where is `memory.py`'s business. The rules:

- A record has a sequence number, one higher with each move. It is written beside the memory file first, then into its
  journal, then into the database; the highest number found wins, and the others are brought up to it.
- A kind moves one step up or any number of steps down (`modes.is_move`). With a percentage below 100 only the keys whose
  bucket is below it are in the stage; the others stay in the one it came from (`below`).
- `epoch` counts how often a kind has come to be written to the database anew. What the database says about itself ("this
  kind is complete") counts only for the epoch it was said in: writes that went past it make it void.

The text is one EDN map::

    {:format 1 :sequence n :store "uuid" :kinds {kind {:stage keyword :below keyword :percent n :epoch n
     [:reads keyword] [:writes keyword]}} :history [{:sequence n :at inst :who string :why string :kinds [kind ...]
     :from keyword :to keyword :percent n :forced bool :figures {...}} ...]}
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from migration.modes import STAGES, Mode, is_move, mode_of
from store.edn import Keyword, Map, read_edn, write_edn
from store.errors import EdnError, StoreCorrupt, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

__all__ = ["BUCKETS", "KindStage", "Move", "StageRecord", "bucket_of"]

BUCKETS: Final = 100
_EDN_ONLY: Final = STAGES[0]
_ARCHIVED: Final = "archived"  # where the last move of a history leads


def bucket_of(key: Keyword) -> int:
    """A number from 0 to 99 that spreads keys evenly, the same in every process and for ever."""
    return zlib.crc32(str(key).encode("utf-8", "surrogatepass")) % BUCKETS


@dataclass(frozen=True, slots=True)
class KindStage:
    """Where a kind of data stands.

    Attributes:
        stage: the stage of the keys whose bucket is below `percent`.
        below: the stage of the others.
        percent: 0 to 100.
        epoch: how often the kind came to be written to the database anew.
        reads, writes: set apart from the stage's own; None: the stage's.
    """

    stage: str = _EDN_ONLY
    below: str = _EDN_ONLY
    percent: int = 100
    epoch: int = 0
    reads: str | None = None
    writes: str | None = None

    @property
    def modes(self) -> tuple[Mode, Mode]:
        """(mode of the keys in the stage, mode of the others)."""
        upper = mode_of(self.stage, self.reads, self.writes)
        lower = mode_of(self.below)
        assert upper is not None
        assert lower is not None
        return upper, lower

    def mode_of(self, key: Keyword) -> Mode:
        """The mode of a key of this kind."""
        upper, lower = self.modes
        return upper if self.percent >= BUCKETS or bucket_of(key) < self.percent else lower

    @property
    def used_modes(self) -> tuple[Mode, ...]:
        """The modes that some key can be in."""
        upper, lower = self.modes
        return (upper,) if self.percent >= BUCKETS else (lower,) if self.percent <= 0 else (upper, lower)


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of the history."""

    sequence: int
    at: datetime
    who: str
    why: str
    kinds: tuple[str, ...]
    source: str
    target: str
    percent: int
    forced: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The move as plain data."""
        return {
            "sequence": self.sequence,
            "at": self.at.isoformat(),
            "who": self.who,
            "why": self.why,
            "kinds": list(self.kinds),
            "from": self.source,
            "to": self.target,
            "percent": self.percent,
            "forced": self.forced,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The whole record; `moved` and `adjusted` give the next one."""

    sequence: int = 0
    store: str = ""
    kinds: Mapping[Keyword, KindStage] = field(default_factory=dict)
    history: tuple[Move, ...] = ()
    archived: bool = False

    def of(self, kind: Keyword) -> KindStage:
        """Where a kind stands; one that has never moved is in `edn-only`."""
        return self.kinds.get(kind) or _FRESH

    def mode_of(self, kind: Keyword, key: Keyword) -> Mode:
        """The mode of a key of a kind."""
        return self.of(kind).mode_of(key)

    def used_modes(self, kinds: Iterable[Keyword]) -> tuple[Mode, ...]:
        """The modes that some key of these kinds can be in."""
        return tuple(dict.fromkeys(m for k in kinds for m in self.of(k).used_modes))

    def moved(
        self, kinds: Iterable[Keyword], target: str, percent: int, *, who: str, why: str, at: datetime,
        forced: bool = False, figures: Mapping[str, Any] | None = None,
    ) -> StageRecord:  # fmt: skip
        """The record after a move; read preferences and write destinations are the new stage's own again.

        Raises:
            UserError: `stage/move` when the stages do not follow each other, `stage/percent`.
        """
        if target not in STAGES:
            raise UserError("stage/unknown", f"There is no stage {target}.", expected="one of " + ", ".join(STAGES))
        if not 0 <= percent <= BUCKETS:
            raise UserError("stage/percent", f"{percent} is no percentage.", expected="a number from 0 to 100")
        new = dict(self.kinds)
        sources = []
        for kind in kinds:
            old = self.of(kind)
            sources.append(old.stage)
            new[kind] = _moved(kind, old, target, percent)
        source = sources[0] if len(set(sources)) == 1 else "several"
        move = Move(
            self.sequence + 1, at, who, why, tuple(map(str, kinds)), source, target, percent, forced, figures or {}
        )
        archived = self.archived and all(k.stage == STAGES[-1] for k in new.values())
        return replace(self, sequence=self.sequence + 1, kinds=new, history=(*self.history, move), archived=archived)

    def adjusted(
        self, kinds: Iterable[Keyword], *, reads: str | None, writes: str | None, who: str, why: str, at: datetime
    ) -> StageRecord:
        """The record with read preference and write destination set apart; None for the stage's own.

        Raises:
            UserError: `stage/preference` when they do not go with the stage or each other.
        """
        new = dict(self.kinds)
        for kind in kinds:
            old = self.of(kind)
            if mode_of(old.stage, reads, writes) is None:
                raise UserError(
                    "stage/preference",
                    f"In the stage {old.stage}, {kind} cannot be read from {reads or 'its default'} and written to "
                    f"{writes or 'its default'}.",
                    expected="a read preference whose stores are all written, and no more than the stage writes",
                    hint="the tables stand at the head of migration/modes.py.",
                )
            changed = replace(old, reads=reads, writes=writes)
            new[kind] = replace(changed, epoch=_epoch(old, changed))
        move = Move(
            self.sequence + 1, at, who, why, tuple(map(str, kinds)), f"reads={reads or 'default'}",
            f"writes={writes or 'default'}", BUCKETS,
        )  # fmt: skip
        return replace(self, sequence=self.sequence + 1, kinds=new, history=(*self.history, move))

    def renewed(self, kinds: Iterable[Keyword], *, who: str, why: str, at: datetime) -> StageRecord:
        """The record after what the database holds of these kinds became void: a new epoch, the same stages."""
        new = {**self.kinds, **{k: replace(self.of(k), epoch=self.of(k).epoch + 1) for k in kinds}}
        move = Move(self.sequence + 1, at, who, why, tuple(map(str, kinds)), "epoch", "epoch", BUCKETS)
        return replace(self, sequence=self.sequence + 1, kinds=new, history=(*self.history, move))

    def put_away(self, folder: str, *, who: str, why: str, at: datetime) -> StageRecord:
        """The record after the EDN side was archived, in a folder of this name."""
        kinds = tuple(map(str, self.kinds))
        figures = {"folder": folder}
        move = Move(self.sequence + 1, at, who, why, kinds, STAGES[-1], _ARCHIVED, BUCKETS, figures=figures)
        return replace(self, sequence=self.sequence + 1, archived=True, history=(*self.history, move))

    def archive_folder(self) -> str | None:
        """The name of the folder of the newest archive; None when there is none, or its record does not say."""
        folders = [move.figures.get("folder") for move in self.history if move.target == _ARCHIVED]
        return folders[-1] if folders else None

    # -- text

    def text(self) -> str:
        """The record as EDN."""
        form = {
            Keyword("format"): 1,
            Keyword("sequence"): self.sequence,
            Keyword("store"): self.store,
            Keyword("archived"): self.archived,
            Keyword("kinds"): {kind: _kind_form(k) for kind, k in self.kinds.items()},
            Keyword("history"): [_move_form(m) for m in self.history],
        }
        return write_edn(form)

    @classmethod
    def read(cls, text: str, source: str) -> StageRecord:
        """The record of a text.

        Raises:
            StoreCorrupt: `stage/damaged` when it is none.
        """
        try:
            form = read_edn(text, source=source)
            get = {k.name: v for k, v in form.items()}
            _check_format(get["format"])
            kinds = {kind: _kind_of(f) for kind, f in get["kinds"].items()}
            history = tuple(_move_of(f) for f in get["history"])
            return cls(get["sequence"], get["store"], kinds, history, get["archived"])
        except (EdnError, KeyError, ValueError, TypeError, AttributeError) as e:
            raise StoreCorrupt(
                "stage/damaged",
                f"The stage record cannot be read: {e.__class__.__name__}: {str(e).splitlines()[0] if str(e) else ''}.",
                hint="remove it, if the journal and the database have one too: the newest of the others is then taken.",
                file=source,
            ) from e


_FRESH: Final = KindStage()


def _check_format(n: Any) -> None:
    if n != 1:
        raise ValueError(f"format {n}")


def _moved(kind: Keyword, old: KindStage, target: str, percent: int) -> KindStage:
    if target == old.stage:  # another percentage of the same stage
        changed = replace(old, percent=percent)
    else:
        if not is_move(old.stage, target):
            raise UserError(
                "stage/move",
                f"{kind} cannot move from {old.stage} to {target}.",
                expected=f"one step up, to {STAGES[min(STAGES.index(old.stage) + 1, len(STAGES) - 1)]}, or any steps down",
            )
        if old.percent < BUCKETS and STAGES.index(target) > STAGES.index(old.stage):
            raise UserError(
                "stage/percent",
                f"{kind} is in {old.stage} with {old.percent} per cent of its keys.",
                hint="raise it to 100 first.",
            )
        below = old.stage if STAGES.index(target) > STAGES.index(old.stage) else target
        changed = KindStage(target, below, percent, old.epoch)
    return replace(changed, epoch=_epoch(old, changed))


def _epoch(old: KindStage, new: KindStage) -> int:
    """One more when some key that was not written to the database now is."""
    if not any(m.uses_database for m in new.used_modes):
        return old.epoch
    every_key = range(BUCKETS)

    def uses(stage: KindStage, bucket: int) -> bool:
        upper, lower = stage.modes
        return (upper if bucket < stage.percent else lower).uses_database

    return old.epoch + any(uses(new, b) and not uses(old, b) for b in every_key)


def _kind_form(k: KindStage) -> dict[Keyword, Any]:
    form: dict[Keyword, Any] = {
        Keyword("stage"): Keyword(k.stage),
        Keyword("below"): Keyword(k.below),
        Keyword("percent"): k.percent,
        Keyword("epoch"): k.epoch,
    }
    if k.reads:
        form[Keyword("reads")] = Keyword(k.reads)
    if k.writes:
        form[Keyword("writes")] = Keyword(k.writes)
    return form


def _kind_of(form: Mapping[Keyword, Any]) -> KindStage:
    get = {k.name: v for k, v in form.items()}
    reads, writes = (get[n].name if n in get else None for n in ("reads", "writes"))
    stage = KindStage(get["stage"].name, get["below"].name, get["percent"], get["epoch"], reads, writes)
    if stage.stage not in STAGES or stage.below not in STAGES or mode_of(stage.stage, reads, writes) is None:
        raise ValueError(f"unknown stage or preference in {stage}")
    return stage


def _move_form(m: Move) -> dict[Keyword, Any]:
    return {
        Keyword("sequence"): m.sequence,
        Keyword("at"): m.at,
        Keyword("who"): m.who,
        Keyword("why"): m.why,
        Keyword("kinds"): [Keyword(k) for k in m.kinds],
        Keyword("from"): m.source,
        Keyword("to"): m.target,
        Keyword("percent"): m.percent,
        Keyword("forced"): m.forced,
        Keyword("figures"): Map(m.figures),
    }


def _move_of(form: Mapping[Keyword, Any]) -> Move:
    get = {k.name: v for k, v in form.items()}
    return Move(
        get["sequence"], get["at"], get["who"], get["why"], tuple(map(str, get["kinds"])), get["from"], get["to"],
        get["percent"], get["forced"], get["figures"],
    )  # fmt: skip
