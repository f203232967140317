"""Laws of links that keep history: what they answer is what :class:`.MemoryHistory` answers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import Final
from unittest import SkipTest

from anyio import create_task_group, fail_after, sleep
from anyio.lowlevel import checkpoint

from ..broker import CALL_SECONDS
from ..core.errors import BrokerUnavailable
from ..core.events import Position
from ..core.families import History
from ..core.history import HistoryPage, HistoryRead, Stored
from .adapters import require
from .keepers import Keeper, Model, read_of, same, two_keepers
from .nodes import BrokerUnderTest

__all__ = [
    "history_ages",
    "history_moments",
    "history_positions",
    "history_reads",
    "history_trims",
    "idempotency_keys",
    "kept_items",
    "kept_names",
    "kept_order",
    "kept_turns",
    "lost_history",
]

_SIZES: Final = (1, 2, 3, 5, 1000)
_NAMES: Final = ("a", "b", "a.b", "a.c", "a.b.c", "a.b.d", "b.b.c", "ab.c")
_PATTERNS: Final = (
    *_NAMES,
    "none",
    "*",
    "+",
    "a.*",
    "a.+",
    "a.b.+",
    "+.b.c",
    "*.*",
    "+.b",
    "a.*.c",
)
_STRANGE: Final = ("a", "A", "ä", "a\u0308", "%", "%25", "a>b", "$JS", "{1}", "'", '"', "🎉", "\\")


async def kept_items(case: BrokerUnderTest) -> None:
    """A stored publication comes once to every link that follows, the storing one too, as it was.

    It comes with its position and the offset before it on its channel, and is read the same.
    """
    async with two_keepers(case) as (one, two):
        model = Model()
        for keeper in (one, two):
            await keeper.node.follow(case.below())
        for keeper in (one, two, one):
            entries = [keeper.entry(name, [name, "é"]) for name in ("a.b", "a", "a.b", "c")]
            fresh = model.keep(entries, await keeper.store(entries))
            for each in (one, two):
                kept = await each.gets(fresh)
                require({item.node for item in kept} == {keeper.node.name}, "it names its node")
                for item in kept:
                    expected = model.kept[item.published.number]
                    before = 0 if expected.previous is None else expected.previous.offset
                    require(item.previous == before, "it names the one before it on its channel")
                    require(item.published.data == expected.data, "it comes as it was")
        page = await two.ask("*")
        require(len(page.publications) == len(model.kept), "all of it is read")
        for publication in page.publications:
            same(publication, model.kept[publication.number])
        require(one.node.unreadable + two.node.unreadable == 0, "messages are as they were")


async def kept_order(case: BrokerUnderTest) -> None:
    """However many links store at once, everything comes in the order of offsets.

    So it is on all feeds together that a link follows.
    """
    async with two_keepers(case) as (one, two), case.join() as exact, case.join() as below:
        await exact.follow(case.exact("a.b"), case.exact("b"), case.exact("a.c"))
        await below.follow(case.below("a"), case.exact("b"))
        await two.node.follow(case.below())
        stored: list[tuple[str, Stored]] = []
        names = ("a.b", "a.c", "a.b.c", "b", "c")

        async def store_all(keeper: Keeper, seed: int) -> None:
            random = Random(seed)  # noqa: S311  # a choice of examples
            for _ in range(60):
                chosen = random.choices(names, k=random.choice((1, 1, 3, 20)))
                outcomes = await keeper.store([keeper.entry(name) for name in chosen])
                stored.extend(zip(chosen, outcomes, strict=True))

        async with create_task_group() as tasks:
            tasks.start_soon(store_all, one, 1)
            tasks.start_soon(store_all, two, 2)
        stored.sort(key=lambda each: each[1].position.offset)
        for node, wanted in (
            (exact, {"a.b", "a.c", "b"}),
            (below, {*names[:4]}),
            (two.node, {*names}),
        ):
            expected = [outcome for name, outcome in stored if name in wanted]
            await node.gets(len(expected))
            offsets = [item.offset for item in node.kept]
            require(
                offsets == [each.position.offset for each in expected],
                f"{wanted} came out of order, not once, or not at all",
            )


async def kept_turns(case: BrokerUnderTest) -> None:
    """A turn brings its other items as well; it may hold nothing to keep, or thousands."""
    async with two_keepers(case) as (one, two):
        await two.node.follow(case.below())
        await one.store([])
        await one.store([], [(case.exact("x"), "1")])
        mixed = await one.store([one.entry("a")], [(case.exact("x"), "2"), (case.below("b"), "3")])
        await one.node.say(case.exact("x"), "4")
        await two.gets(mixed)
        await one.node.settle(two.node)
        require(sorted(two.node.take()) == ["1", "2", "3", "4"], "each item came once")
        entries = [one.entry(f"n{n % 700}.x", n) for n in range(3_000)]
        stored = await one.store(entries)
        kept = await two.gets(stored)
        require(
            [item.published.number for item in kept]
            == [entry.publication.number for entry in entries],
            "thousands come in order",
        )
        big = await one.store([one.entry("big", "x" * (1 << 18)) for _ in range(4)])
        await two.gets(big)
        page = await two.ask("big")
        require([len(p.data) for p in page.publications] == [(1 << 18) + 2] * 4, "large ones, too")


async def kept_names(case: BrokerUnderTest) -> None:
    """Each channel has a history of its own, whatever characters its name has."""
    async with two_keepers(case) as (one, two):
        names = [f"{text}.{text}" for text in _STRANGE] + [f"{text}.*"[:-2] for text in _STRANGE]
        stored = await one.store([one.entry(name, name) for name in names])
        pages = await two.link.read([read_of(case, name) for name in names])
        for name, outcome, page in zip(names, stored, pages, strict=True):
            found = [each.position for each in page.publications]
            require(found == [outcome.position], f"{name!r} has {found}")


async def history_reads(case: BrokerUnderTest) -> None:
    """Two links store, and each answers every question as :class:`.MemoryHistory` does."""
    await _run(case, 1, _SIZES)


async def history_trims(case: BrokerUnderTest) -> None:
    """The same with channels that keep one or two: what is gone is not said to be complete."""
    await _run(case, 2, _SIZES[:2])


async def _run(case: BrokerUnderTest, seed: int, sizes: Sequence[int]) -> None:
    random = Random(seed)  # noqa: S311  # a choice of examples
    histories = {name: History(size=random.choice(sizes)) for name in _NAMES}
    async with two_keepers(case) as keepers:
        model = Model()
        await keepers[1].node.follow(case.below())
        for turn in range(40):
            keeper = random.choice(keepers)
            entries = []
            for name in random.choices(_NAMES, k=random.choice((1, 1, 2, 8))):
                key = f"{name} {random.randrange(9)}" if random.randrange(5) == 0 else None
                entries.append(keeper.entry(name, turn, histories[name], key))
            fresh = model.keep(entries, await keeper.store(entries))
            await keepers[1].gets(fresh)
            pairs = [_question(case, model, random) for _ in range(random.choice((1, 4, 12)))]
            asked = [question for _, question in pairs]
            pages = await random.choice(keepers).link.read(asked)
            for (read, question), page in zip(pairs, pages, strict=True):
                model.check(read, page, question)
        require(await keepers[0].link.read([]) in ([], ()), "no question, no answer")


def _question(
    case: BrokerUnderTest, model: Model, random: Random
) -> tuple[HistoryRead, HistoryRead]:
    """Return a question to the model, and the same one to the store."""
    read = read_of(
        case,
        random.choice(_PATTERNS),
        limit=random.choice((1, 2, 5, 300, 300)),
        newest=random.choice((None, None, 1, 2)),
        is_from_end=random.random() < 0.3,
    )
    (after, real_after), (before, real_before) = model.a_position(random), model.a_position(random)
    if random.random() < 0.6:
        before = real_before = None
    return (
        read._replace(after=after, before=before),
        read._replace(after=real_after, before=real_before),
    )


async def history_moments(case: BrokerUnderTest) -> None:
    """An answer about a pattern is of one moment: it has everything up to the head that it names.

    So it is while channels come, and while what they keep is replaced.
    """
    async with two_keepers(case) as (one, two):
        begun = await one.link.head()
        stored: list[Stored] = []
        pages: list[HistoryPage] = []

        async def store_all() -> None:
            for turn in range(60):
                names = (f"n{turn}", f"n{turn // 2}.x", "a")
                stored.extend(await one.store([one.entry(name) for name in names]))
                await checkpoint()
            tasks.cancel_scope.cancel()

        async def ask_all() -> None:
            while True:
                pages.append(await two.ask("*", after=begun, limit=1000))
                await checkpoint()

        async with create_task_group() as tasks:
            tasks.start_soon(store_all)
            tasks.start_soon(ask_all)
        pages.append(await two.ask("*", after=begun, limit=1000))
        positions = [outcome.position for outcome in stored]
        require(len(pages[-1].publications) == len(positions), "the last answer has all")
        for page in pages:
            require(page.is_complete, "nothing is missing")
            came = [each.position for each in page.publications]
            expected = [each for each in positions if each.offset <= page.head.offset]
            require(came == expected, f"up to {page.head} came {len(came)} of {len(expected)}")


async def history_positions(case: BrokerUnderTest) -> None:
    """The head is where the store stands; a position of another run is known to be one."""
    async with two_keepers(case) as (one, two):
        before = await one.link.head()
        require((await two.link.head()).epoch == before.epoch, "to ask changes nothing")
        [first, second] = await two.store([two.entry("a"), two.entry("a")])
        after = await one.link.head()
        require(after.epoch == before.epoch == first.position.epoch, "one store has one epoch")
        require(after.offset >= second.position.offset > before.offset, "the head moves on")
        page = await one.ask("a", after=before)
        require(page.is_complete and len(page.publications) == 2, "what came after the head is new")
        page = await one.ask("a", after=after)
        require(page.is_complete and not page.publications, "nothing came after the new one")
        position = first.position
        page = await one.ask("a", after=position)
        require(page.is_complete and len(page.publications) == 1, "one came after the first one")
        strangers = [
            Position("other", position.offset),
            Position("", position.offset),
            Position(position.epoch, after.offset + 1_000_000),
        ]
        if position.tag:
            strangers.append(Position(position.epoch, position.offset, position.tag[::-1] + "x"))
        for wrong in strangers:
            page = await one.ask("a", after=wrong)
            require(not page.is_complete, f"{wrong} is no position of this store: {position} is")


async def history_ages(case: BrokerUnderTest) -> None:
    """A publication is there until its time is over, and not much longer, also before newer ones.

    What is gone for its age is not said to be complete.
    """
    async with two_keepers(case) as (one, two):
        ttl, late = 0.4, 1.0
        history = History(ttl=ttl)
        start = await one.link.head()
        stored: list[tuple[float, float, Position]] = []
        for pause in (0.25, 0):
            begun = monotonic()
            [outcome] = await one.store([one.entry("a", history=history)])
            stored.append((begun, monotonic(), outcome.position))
            await sleep(pause)  # So that they end one after another.
        while True:
            asked = monotonic()
            page = await two.ask("a", after=start)
            answered = monotonic()
            there = {each.position for each in page.publications}
            for begun, ended, position in stored:
                require(
                    position in there or answered - begun >= ttl,
                    f"one of {ttl} s is gone after {answered - begun:.3f} s",
                )
                require(
                    position not in there or asked - ended <= ttl + late,
                    f"one of {ttl} s is there after {asked - ended:.3f} s",
                )
            require(page.is_complete == (len(there) == 2), "what is gone is missing")
            if not there:
                break
            await checkpoint()
        [last] = await one.store([one.entry("a", history=history)])
        page = await two.ask("a", after=stored[1][2])
        require(page.is_complete, "the last one is remembered after its time")
        require([p.position for p in page.publications] == [last.position], "a new one follows it")
        page = await two.ask("*", after=start)
        require(not page.is_complete, "and so are those before it, as gone")


async def idempotency_keys(case: BrokerUnderTest) -> None:
    """An idempotency key is stored and published once, whichever link, turn or channel it is."""
    async with two_keepers(case) as (one, two):
        await two.node.follow(case.below())
        first, again, other = await one.store(
            [one.entry("a", 1, key="k"), one.entry("a", 2, key="k"), one.entry("b", 3, key="é\n ")]
        )
        require(
            (first.is_repeated, again.is_repeated, other.is_repeated) == (False, True, False), ""
        )
        require(again.position == first.position, "a repetition in a turn has the first's position")
        await two.gets([first, other])
        [late, new] = await two.store([two.entry("a", 4, key="k"), two.entry("a", 5)])
        require(late == again, "a repetition of another link has it as well")
        await two.gets([new])
        page = await two.ask("*")
        texts = [p.data for p in page.publications]
        require(texts == [b"1", b"3", b"5"], f"kept: {texts}")


async def lost_history(case: BrokerUnderTest) -> None:
    """Calls of a link that has failed raise ``BrokerUnavailable``; a new link has what was kept."""
    if case.cut is None:
        raise SkipTest("nothing can end the links of this broker: give `cut`")
    keepers: list[Keeper] = []
    try:
        async with case.join() as node:
            keepers.append(one := Keeper(node))
            await one.store([one.entry("a")])
            await one.ask("a")
            await case.cut()
            await sleep(2 * CALL_SECONDS)  # The end of the link cancels it.
    except BrokerUnavailable:
        pass
    [one] = keepers
    for call in (one.store([one.entry("a")]), one.ask("a"), one.link.head()):
        try:
            with fail_after(CALL_SECONDS):
                await call
        except BrokerUnavailable:
            continue
        require(False, "calls of a link that has failed raise BrokerUnavailable")  # noqa: FBT003
    async with two_keepers(case) as (two, _):
        page = await two.ask("a")
        require(len(page.publications) == 1, "a new link has what was kept")
