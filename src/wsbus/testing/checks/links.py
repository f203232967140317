"""Laws of brokers and their links."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from unittest import SkipTest

from anyio import (
    CancelScope,
    create_task_group,
    current_time,
    fail_after,
    get_running_tasks,
    move_on_after,
    sleep,
    sleep_forever,
)
from anyio.lowlevel import checkpoint

from ...broker import DIAL_SECONDS
from ...core.channels import MAX_CHANNEL_BYTES, MAX_SEGMENTS
from ...core.errors import BrokerUnavailable
from ...core.feeds import Feed
from ..adapters import require
from ..nodes import BrokerUnderTest, LinkedNode

__all__ = [
    "bodies",
    "cancellation",
    "changes",
    "empty_calls",
    "exact_feeds",
    "following",
    "large_messages",
    "lost_links",
    "many_follows",
    "order",
    "overlaps",
    "prefix_feeds",
    "round_trip",
    "shared_brokers",
    "side_by_side",
    "strange_names",
    "unfollowing",
    "wanted_feeds",
]

_STRANGE: Final = (
    *("a", "A", "Ä", "a\u0308", "ä", "%", "%25", "%2525", "%3E", "%2E", "a%b", "a>b", ">>", "->"),
    *("$SYS", "$JS", "$JS/API", "_INBOX", "C#", "##", "a+b", "++", "BTC/USDT", "^GSPC"),
    *("[a]", "[^a]", "?", "{1}", "{a}b", "\\", "\\\\", "'", '"', "`", "!all", "!", "=", "=a", "~"),
    *("~a", "@", "&", "|", ",", ";", ":", "(", ")", "<", "-", "_", "0", "贵州茅台", "غرفة", "🎉"),
    *("__proto__", "MULTI", "+OK", "PING", "SUB", "x" * 200),
)
"""Segments that some broker may read as more than a name."""


async def round_trip(case: BrokerUnderTest) -> None:
    """A publication comes once, as it was, to every link that follows; to its own one, too."""
    feed = case.exact("a.b")
    async with case.join() as one, case.join() as two:
        for node in (one, two):
            await node.follow(feed)
        await one.say(feed, "1")
        await two.say(feed, "2", "3")
        await one.settle(one, two)
        await two.settle(one, two)

        for node in (one, two):
            for who, texts in ((one, ["1"]), (two, ["2", "3"])):
                came = node.texts_of(who)
                require(came == texts, f"{texts} came as {came}")
            require(node.unreadable == 0, "messages come as they were published")


async def exact_feeds(case: BrokerUnderTest) -> None:
    """A channel's feed brings that channel: not its parents, children or lookalikes."""
    names = ["a", "a.b", "a.b.c", "a.bc", "ab", "A.b", "a.B", "b", "b.a", "a.a.b"]
    async with case.join() as one, case.join() as two:
        await one.follow(case.exact("a.b"))
        await two.publish([(case.exact(name), name) for name in names])
        await two.settle(one)
        require(one.take() == ["a.b"], "an exact feed brings its channel only")
        await one.follow(case.exact("a"), case.exact("b.a"))
        await two.publish([(case.exact(name), name) for name in names])
        await two.settle(one)
        require(sorted(one.take()) == ["a", "a.b", "b.a"], "and so do several")


async def prefix_feeds(case: BrokerUnderTest) -> None:
    """The feed of a prefix brings every channel below it, once, and no other."""
    names = ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc", "ab", "ab.c", "A.b", "b", "b.a.b"]
    below = [(case.below("a"), [n for n in names if n.startswith("a.")])]
    below += [(case.below("a.b"), [n for n in names if n.startswith("a.b.")])]
    below += [(case.below(), names), (Feed("~"), names)]
    async with case.join() as one, case.join() as two:
        for feed, expected in below:
            await one.follow(feed)
            await two.publish([(case.exact(name), name) for name in names])
            await two.settle(one)
            came = one.take()
            require(sorted(came) == sorted(expected), f"{feed} brought {came}")
            await one.unfollow(feed)


async def following(case: BrokerUnderTest) -> None:
    """Everything that is published after the return of ``follow`` comes, from the very first."""
    async with case.join() as one, case.join() as two:
        for number in range(50):
            feed = case.below(f"f{number}") if number % 2 else case.exact(f"f{number}.x")
            await one.follow(feed)
            await two.say(case.exact(f"f{number}.x"), str(number))
        await two.settle(one)
        require(one.texts == [str(n) for n in range(50)], f"came: {one.texts}")


async def unfollowing(case: BrokerUnderTest) -> None:
    """Nothing that is published once ``unfollow`` has returned comes; one may follow again."""
    channel = case.exact("a.b")
    async with case.join() as one, case.join() as two:
        for feed in (channel, case.below("a"), channel):
            await one.follow(feed)
            await two.say(channel, "before")
            await two.settle(one)
            await one.unfollow(feed)
            await two.say(channel, "after")
            await two.settle(one)
            require(one.take() == ["before"], f"{feed} was followed, and then not any more")


async def overlaps(case: BrokerUnderTest) -> None:
    """A publication of two followed feeds comes at least once, and its copies are equal."""
    channel = case.exact("a.b")
    async with case.join() as one, case.join() as two:
        await one.follow(channel, case.below("a"))
        await one.follow(case.below())
        await two.say(channel, "1", "2")
        await two.settle(one)
        copies = {(name, item) for name, item in one.heard}
        require(len({item.number for _, item in copies}) == 2, f"came: {one.texts}")
        require(len(copies) == 2, "copies are equal, and carry the same number")
        await one.unfollow(channel, case.below())
        one.take()
        await two.say(channel, "3")
        await two.settle(one)
        require(one.take() == ["3"], "the feed that is left brings it")


async def order(case: BrokerUnderTest) -> None:
    """A channel brings what one node publishes in that order: within a turn, and over turns."""
    channels = [case.exact(f"a.{n}") for n in range(4)]
    async with case.join() as one, case.join() as two:
        await one.follow(*channels[:2], case.below("b"))
        said = 0
        for turn in range(150):
            feeds = [*channels, case.exact("b.x"), case.exact("b.y")]
            await two.publish([(feeds[n % 6], str(said + n)) for n in range(turn % 23)])
            said += turn % 23
        await two.settle(one)
        for channel in (*channels[:2], case.exact("b.x"), case.exact("b.y")):
            numbers = [item.number for _, item in one.heard if item.channel == channel[1:]]
            require(numbers == sorted(set(numbers)), f"{channel} is out of order: {numbers}")
            require(numbers, f"nothing came on {channel}")


async def large_messages(case: BrokerUnderTest) -> None:
    """Publications of half a MiB come, and turns of 4 MiB, in order."""
    feed = case.exact("a.b")
    async with case.join() as one, case.join() as two:
        await one.follow(feed)
        sizes = (0, 1, 1_000, 10_000, 100_000, 1 << 19)
        for size in sizes:
            await two.say(feed, "x" * size)
        await two.settle(one)
        require([len(text) for text in one.take()] == [*sizes], "large ones come as they were")
        await two.say(feed, *[str(n) + "x" * 65_536 for n in range(64)])
        await two.settle(one)
        numbers = [int(text.rstrip("x")) for text in one.take()]
        require(numbers == [*range(64)], f"a turn of 4 MiB came as {numbers}")


async def strange_names(case: BrokerUnderTest, segments: Iterable[str] = _STRANGE) -> None:
    """Each name is itself: no two meet, whatever characters they have."""
    longest = "y" * (MAX_CHANNEL_BYTES - 2 * (MAX_SEGMENTS - 1)) + ".z" * (MAX_SEGMENTS - 1)
    names = [*dict.fromkeys(segments)]
    async with case.join() as exact, case.join() as prefix, case.join() as two:
        await exact.follow(*[Feed("=" + name) for name in (*names, longest)])
        await prefix.follow(*[Feed(f"~{name}.") for name in names])
        for name in names:
            text = f"{name}.{name}"
            if len(text.encode()) > MAX_CHANNEL_BYTES:
                text = f"{name}.x"
            await two.publish([(Feed("=" + name), name), (Feed("=" + text), text)])
        await two.say(Feed("=" + longest), longest)
        await two.settle(exact, prefix)
        came = exact.texts
        require(came == [*names, longest], f"exact names: {set(came) ^ {*names, longest}}")
        heads = [text.rpartition(".")[0] for text in prefix.texts]
        require(heads == names, f"prefixes: {set(heads) ^ {*names}}")


async def shared_brokers(case: BrokerUnderTest) -> None:
    """Several links of one broker live side by side: the end of one leaves the others alone."""
    broker = case.make_broker()
    require(isinstance(broker.address, str), "a broker tells its address")
    feed = case.exact("a.b")
    async with case.join(broker) as one, case.join() as other:
        async with case.join(broker) as two:
            for node in (one, two, other):
                await node.follow(feed)
            await two.say(feed, "1")
            await two.settle(one, two, other)
            require(one.take() == two.take() == other.take() == ["1"], "each link gets it")
            await two.unfollow(feed)
            await other.say(feed, "2")
            await other.settle(one, two)
            require((one.take(), two.take()) == (["2"], []), "each link follows for itself")
        await other.say(feed, "3")
        await other.settle(one)
        require(one.take() == ["3"], "the end of a link is none of the others")
    async with case.join(broker) as one:
        await one.follow(feed)
        await one.say(feed, "4")
        await one.settle(one)
        require(one.take() == ["4"], "a broker is used again after its links have ended")


async def many_follows(case: BrokerUnderTest) -> None:
    """A thousand feeds are followed at once, and each brings its own; then they are given up."""
    feeds = [case.exact(f"{n % 10}.{n}") for n in range(1_000)]
    async with case.join() as one, case.join() as two:
        await one.follow(*feeds)
        await two.publish([(feed, feed) for feed in feeds])
        await two.settle(one)
        require(sorted(one.take()) == sorted(feeds), "each feed brings its own")
        await one.unfollow(*feeds[1:])
        await two.publish([(feed, feed) for feed in feeds])
        await two.settle(one)
        require(one.take() == feeds[:1], "what was given up brings nothing")


async def side_by_side(case: BrokerUnderTest) -> None:
    """One task publishes while another follows and unfollows; neither disturbs the other."""
    feed = case.exact("steady")
    async with case.join() as one:
        await one.follow(feed)
        async with create_task_group() as tasks:
            tasks.start_soon(_say_all, one, feed, 200)
            for n in range(50):
                await one.follow(case.exact(f"x.{n}"), case.below(f"y{n}"))
                await one.unfollow(case.exact(f"x.{n}"), case.below(f"y{n}"))
        await one.settle(one)
        require(one.texts == [str(n) for n in range(200)], f"came: {one.texts}")


async def changes(case: BrokerUnderTest) -> None:
    """While a wider feed takes over from a narrower one, and back, nothing is lost or late.

    Copies may come; the first of each publication come in order.
    """
    narrow, wide = case.exact("a.b"), case.below("a")
    async with case.join() as one, case.join() as two:
        await one.follow(narrow)
        async with create_task_group() as tasks:
            tasks.start_soon(_say_all, two, narrow, 400)
            for _ in range(25):
                await one.follow(wide)
                await one.unfollow(narrow)
                await one.follow(narrow)
                await one.unfollow(wide)
        await two.settle(one)
        firsts = [*dict.fromkeys(one.texts)]
        require(firsts == [str(n) for n in range(400)], f"came: {firsts}")


async def wanted_feeds(case: BrokerUnderTest) -> None:
    """A feed that another node follows is wanted, from the return of ``follow`` on."""
    async with case.join() as one, case.join() as two:
        for feed in (case.exact("a.b"), case.below("c")):
            await one.follow(feed)
            require(two.link.is_wanted(feed), f"{feed} is wanted by another node")
            require(two.link.has_others, "and there is another node")
        require(two.link.is_wanted(case.exact("c.d")), "and so is what lies within")


async def empty_calls(case: BrokerUnderTest) -> None:
    """Calls with nothing in them do nothing; to follow twice is to follow, and so with the end."""
    feed = case.exact("a.b")
    async with case.join() as one:
        await one.follow()
        await one.unfollow()
        await one.publish([])
        await one.unfollow(feed)
        await one.follow(feed)
        await one.follow(feed)
        await one.say(feed, "1")
        await one.settle(one)
        require(one.take() == ["1"], "a feed that is followed twice brings once")
        await one.unfollow(feed)
        await one.unfollow(feed)
        await one.say(feed, "2")
        await one.settle(one)
        require(one.take() == [], "and is given up by one call")


async def bodies(case: BrokerUnderTest) -> None:
    """An error of the body comes out as it is."""
    error = LookupError("of the body")
    try:
        async with case.join():
            raise error
    except LookupError as exc:
        require(exc is error, "the error of the body comes out")


async def cancellation(case: BrokerUnderTest) -> None:
    """Cancelled at whatever it awaits, a link ends soon, and leaves no task behind."""
    before = {task.id for task in get_running_tasks()}
    turns = [0]
    while turns[-1] < 3_000:
        turns.append(turns[-1] + max(turns[-1] // 3, 1))
    for count in turns:
        started = current_time()
        with CancelScope() as scope:
            async with create_task_group() as tasks:
                tasks.start_soon(_cancel_after, scope, count)
                await _use(case)
        require(current_time() - started < DIAL_SECONDS + 1, "a cancelled link ends soon")
    with move_on_after(2):
        # Nothing tells when a task of a library ends.
        while {task.id for task in get_running_tasks()} - before:  # noqa: ASYNC110
            await sleep(0.01)
    left = [task.name for task in get_running_tasks() if task.id not in before]
    require(not left, f"tasks are left: {left}")
    await round_trip(case)


async def lost_links(case: BrokerUnderTest) -> None:
    """A link whose peer is gone ends with ``BrokerUnavailable``, and so do its calls."""
    if case.cut is None:
        raise SkipTest("nothing can end the links of this broker: give `cut`")
    lost: list[LinkedNode] = []
    try:
        with fail_after(2 * DIAL_SECONDS):
            async with case.join() as one:
                lost.append(one)
                await one.follow(case.exact("a.b"))
                await case.cut()
                await sleep_forever()  # The context must notice it without a call.
    except BrokerUnavailable:
        pass
    except TimeoutError:
        require(False, "a link that was cut ends by itself")  # noqa: FBT003
    (one,) = lost
    for call in (one.say(case.exact("a.b"), "1"), one.follow(case.exact("c")), one.unfollow()):
        try:
            with fail_after(DIAL_SECONDS):
                await call
        except BrokerUnavailable:
            continue
        require(False, "calls of a link that has failed raise BrokerUnavailable")  # noqa: FBT003


async def _say_all(node: LinkedNode, feed: Feed, count: int) -> None:
    for number in range(count):
        await node.say(feed, str(number))
        await checkpoint()


async def _cancel_after(scope: CancelScope, turns: int) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()


async def _use(case: BrokerUnderTest) -> None:
    async with case.join() as one:
        while True:
            await one.follow(case.exact("a.b"), case.below("c"))
            await one.say(case.exact("a.b"), "1")
            await one.settle(one)
            await one.unfollow(case.exact("a.b"))
            await checkpoint()
