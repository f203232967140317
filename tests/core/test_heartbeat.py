from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsbus.core.errors import UsageError
from wsbus.core.heartbeat import Beat, Heartbeat, HeartbeatPolicy

# Eighths of seconds: sums of them are exact, so that the model can ask for equality.
durations = st.integers(1, 400).map(lambda n: n / 8)
policies = (
    st.builds(HeartbeatPolicy, st.none(), st.none() | durations)
    | st.builds(HeartbeatPolicy, durations, st.none())
    | st.tuples(durations, durations).map(lambda pair: HeartbeatPolicy(pair[0], sum(pair)))
)


def test_defaults_are_those_of_the_protocol() -> None:
    """The server pings every 30 s and closes after 60 s of silence."""
    assert HeartbeatPolicy() == HeartbeatPolicy(interval=30.0, timeout=60.0)


def test_where_the_client_drives_nothing_is_ever_due() -> None:
    """The server sends no ping and closes nobody, however long it waits."""
    heart = Heartbeat(HeartbeatPolicy.client_drives(), now=0.0)

    assert heart.deadline() == math.inf
    assert heart.judge(1e9) is Beat.NOTHING


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_durations_are_positive_and_finite(seconds: float) -> None:
    """Anything else is a mistake of the caller: who means never says None."""
    with pytest.raises(UsageError, match="interval"):
        HeartbeatPolicy(interval=seconds)
    with pytest.raises(UsageError, match="timeout"):
        HeartbeatPolicy(timeout=seconds)


@pytest.mark.parametrize(("interval", "timeout"), [(30, 30), (30, 29.9), (5, 0.1)])
def test_a_timeout_is_above_the_interval(interval: float, timeout: float) -> None:
    """Or the server would close clients that only answer before they were asked."""
    with pytest.raises(UsageError, match="above its interval"):
        HeartbeatPolicy(interval, timeout)
    assert HeartbeatPolicy(None, timeout).timeout == timeout
    assert HeartbeatPolicy(interval, None).interval == interval


@pytest.mark.parametrize("seconds", ["30", b"", []])
def test_durations_are_numbers(seconds: Any) -> None:
    """What is no number is refused with a sentence, and not with a TypeError."""
    with pytest.raises(UsageError, match="seconds above 0"):
        HeartbeatPolicy(interval=seconds)


@pytest.mark.parametrize("spread", [0.5, 0.0, 1.01, math.nan])
def test_a_spread_is_a_share_of_the_interval(spread: float) -> None:
    """Above a half, so that the first ping does not come at once; at most one."""
    with pytest.raises(UsageError, match="spread"):
        Heartbeat(HeartbeatPolicy(), now=0.0, spread=spread)


def test_the_first_ping_is_spread_and_the_others_are_an_interval_apart() -> None:
    """Chance moves the first one only; the rest keep that distance."""
    heart = Heartbeat(HeartbeatPolicy(timeout=None), now=100.0, spread=0.75)

    assert heart.deadline() == 122.5
    assert heart.judge(122.4) is Beat.NOTHING
    assert (heart.judge(123.0), heart.last_ping) == (Beat.PING, 123.0)
    assert heart.deadline() == 153.0


def test_a_frame_does_not_put_the_ping_off() -> None:
    """Pings go by the clock: a peer that talks is pinged all the same."""
    heart = Heartbeat(HeartbeatPolicy(), now=0.0)
    heart.seen(29.0)

    assert heart.judge(30.0) is Beat.PING


def test_silence_ends_it_after_the_timeout_and_not_before() -> None:
    """At the very second of the timeout the peer is dead."""
    heart = Heartbeat(HeartbeatPolicy(interval=None), now=0.0)
    heart.seen(7.0)

    assert heart.judge(66.9) is Beat.NOTHING
    assert heart.judge(67.0) is Beat.DEAD


def test_silence_wins_over_a_ping() -> None:
    """Nobody pings the dead, nor counts a ping for them."""
    heart = Heartbeat(HeartbeatPolicy(), now=0.0)

    assert (heart.judge(60.0), heart.last_ping) == (Beat.DEAD, None)


def test_a_new_policy_takes_effect_at_the_next_judgement() -> None:
    """A dialect known after the handshake brings its own heartbeat."""
    heart = Heartbeat(HeartbeatPolicy.client_drives(), now=0.0)
    heart.policy = HeartbeatPolicy(interval=10.0, timeout=20.0)

    assert heart.deadline() == 10.0
    assert heart.judge(20.0) is Beat.DEAD


def test_the_servers_own_standstill_is_forgiven() -> None:
    """A process that was stopped for an hour gives everybody the time that was left."""
    heart = Heartbeat(HeartbeatPolicy(), now=0.0)
    heart.seen(10.0)
    heart.forgive(3600.0)

    assert heart.judge(3630.0) is Beat.PING
    assert heart.judge(3669.9) is Beat.PING
    assert heart.judge(3670.0) is Beat.DEAD


def test_forgiving_puts_nobodys_life_into_the_future() -> None:
    """A peer that was read right after the standstill has no more than its full time."""
    heart = Heartbeat(HeartbeatPolicy(interval=None), now=0.0)
    heart.seen(3600.0)
    heart.forgive(3600.0, now=3601.0)

    assert heart.deadline() == 3661.0


def test_forgiving_puts_no_ping_off_that_was_sent_since() -> None:
    """A ping right after the standstill is followed by the next one an interval later."""
    heart = Heartbeat(HeartbeatPolicy(timeout=None), now=0.0)
    heart.judge(3600.0)
    heart.forgive(3600.0, now=3600.0)

    assert heart.deadline() == 3630.0


@pytest.mark.parametrize(
    ("policy", "deadline"),
    [(HeartbeatPolicy(interval=None), 160.0), (HeartbeatPolicy(timeout=None), 130.0)],
    ids=["timeout", "interval"],
)
def test_forgiving_never_shortens_anybodys_time(policy: HeartbeatPolicy, deadline: float) -> None:
    """A moment that lies before the last frame, or ping, takes nothing back."""
    heart = Heartbeat(policy, now=100.0)
    heart.forgive(5.0, now=90.0)

    assert heart.deadline() == deadline


@pytest.mark.parametrize("seconds", [-0.1, math.nan])
def test_only_time_that_passed_can_be_forgiven(seconds: float) -> None:
    """A clock that ran backwards is no standstill."""
    with pytest.raises(UsageError):
        Heartbeat(HeartbeatPolicy(), now=0.0).forgive(seconds)


@given(policy=policies, start=st.floats(0, 1e9), spread=st.floats(0.5, 1.0, exclude_min=True))
def test_a_deadline_that_strikes_has_something_due(
    policy: HeartbeatPolicy, start: float, spread: float
) -> None:
    """Judging at the deadline, whatever its rounding, never finds nothing."""
    heart = Heartbeat(policy, start, spread)

    for _ in range(3):
        deadline = heart.deadline()
        if deadline == math.inf or heart.judge(deadline) is Beat.DEAD:
            break
        assert heart.last_ping == deadline
        assert heart.deadline() > deadline


class HeartbeatMachine(RuleBasedStateMachine):
    """Against a model that keeps every frame and every ping, and looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.heart = Heartbeat(HeartbeatPolicy(), self.now, 0.75)
        self.frames = [self.now]
        self.pings: list[float] = []
        self.start = self.now

    @property
    def dead(self) -> bool:
        timeout = self.heart.policy.timeout
        return timeout is not None and all(self.now - frame >= timeout for frame in self.frames)

    @property
    def owes_ping(self) -> bool:
        interval = self.heart.policy.interval
        if interval is None:
            return False
        if self.pings:
            return self.now - self.pings[-1] >= interval
        return self.now - self.start >= interval * 0.75

    @rule(seconds=durations)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def read(self) -> None:
        self.heart.seen(self.now)
        self.frames.append(self.now)

    @rule(policy=policies)
    def swap(self, policy: HeartbeatPolicy) -> None:
        self.heart.policy = policy

    @rule(seconds=durations)
    def stand_still(self, seconds: float) -> None:
        """All that ever happened moves with the clock: the standstill did not take place."""
        self.now += seconds
        self.heart.forgive(seconds, self.now)
        self.start += seconds
        self.frames = [frame + seconds for frame in self.frames]
        self.pings = [ping + seconds for ping in self.pings]

    @rule()
    def judge(self) -> None:
        if self.dead:
            expected = Beat.DEAD
        elif self.owes_ping:
            expected = Beat.PING
            self.pings.append(self.now)
        else:
            expected = Beat.NOTHING

        assert self.heart.judge(self.now) is expected

    @precondition(lambda self: self.heart.deadline() != math.inf)
    @rule()
    def wait_for_the_deadline(self) -> None:
        self.now = max(self.now, self.heart.deadline())

        assert self.dead or self.owes_ping

    @invariant()
    def the_deadline_is_when_something_is_due(self) -> None:
        assert (self.now >= self.heart.deadline()) == (self.dead or self.owes_ping)


TestHeartbeatMachine = HeartbeatMachine.TestCase
