"""Grants: containment, and deny wins."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import parse_channel
from wsbus.core.errors import InvalidChannel, UsageError
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants, Identity


def names(alphabet: str, longest: int) -> list[str]:
    """Return all names of up to so many segments over one-character segments."""
    return [".".join(n) for k in range(1, longest + 1) for n in product(alphabet, repeat=k)]


PATTERNS = names("a*+", 2)
CHANNELS = list(map(parse_channel, names("abc", 3)))
TEXTS = st.lists(st.sampled_from(names("ab*+", 3)), max_size=3)
GRANTS = st.builds(Grants.of, subscribe=TEXTS, deny_subscribe=TEXTS, admin=st.booleans())


def matched(patterns: tuple[str, ...]) -> set[str]:
    """Return the channels that any of the patterns matches, by enumeration."""
    return {c for c in CHANNELS for text in patterns if parse_pattern(text).matches(c)}


def test_subscribing_against_the_oracle() -> None:
    """With one deny and one grant, or none, all small patterns are judged by set inclusion."""
    some = [(), *((text,) for text in PATTERNS)]
    for grant, deny, text, admin in product(some, some, PATTERNS, (False, True)):
        wanted = matched((text,))
        expected = not (deny and wanted <= matched(deny)) and (
            admin or (text != "*" and bool(grant) and wanted <= matched(grant))
        )
        grants = Grants.of(subscribe=grant, deny_subscribe=deny, admin=admin)
        assert grants.may_subscribe(parse_pattern(text)) == expected, (grant, deny, text, admin)


@pytest.mark.parametrize("action", ["publish", "command"])
def test_publishing_and_commands_against_the_oracle(action: str) -> None:
    """Some grant matches and no deny does, for every name and every pair of small patterns."""
    some = [(), *((text,) for text in PATTERNS), *combinations(PATTERNS[:6], 2)]
    for grant, deny, admin in product(some, some, (False, True)):
        grants = Grants.of(**{action: grant, f"deny_{action}": deny}, admin=admin)
        ask = {"publish": grants.may_publish, "command": grants.may_command}[action]
        allowed = {channel for channel in CHANNELS if ask(channel)}
        assert allowed == matched(grant) - matched(deny), (grant, deny)


@given(GRANTS, st.sampled_from(names("ab*+", 3)), st.sampled_from(CHANNELS))
def test_nothing_is_received_that_was_not_granted(grants: Grants, text: str, channel: str) -> None:
    """What an allowed subscription delivers is matched by a grant, unless admin, and by no deny."""
    pattern, name = parse_pattern(text), parse_channel(channel)
    if grants.may_subscribe(pattern) and pattern.matches(name) and grants.may_receive(name):
        assert grants.admin or any(grant.matches(name) for grant in grants.subscribe)
        assert not any(deny.matches(name) for deny in grants.deny_subscribe)


@given(GRANTS, st.sampled_from(names("ab*+", 3)))
def test_deny_wins(grants: Grants, text: str) -> None:
    """A pattern that a deny covers is refused whatever is granted, to admins too."""
    pattern = parse_pattern(text)
    if any(deny.covers(pattern) for deny in grants.deny_subscribe):
        assert not grants.may_subscribe(pattern)


@given(GRANTS, TEXTS, st.sampled_from(names("ab*+", 3)))
def test_a_further_deny_never_allows_anything(grants: Grants, denies: list[str], text: str) -> None:
    """Adding denies only takes away."""
    less = Grants(
        subscribe=grants.subscribe,
        deny_subscribe=(*grants.deny_subscribe, *map(parse_pattern, denies)),
        admin=grants.admin,
    )
    pattern = parse_pattern(text)
    assert grants.may_subscribe(pattern) or not less.may_subscribe(pattern)
    assert not any(less.may_receive(c) and not grants.may_receive(c) for c in CHANNELS)


def test_everything_needs_admin() -> None:
    """The grant ``*`` covers every pattern but ``*`` itself."""
    grants = Grants.of(subscribe=["*"])
    allowed = [text for text in PATTERNS if grants.may_subscribe(parse_pattern(text))]
    assert allowed == [text for text in PATTERNS if text != "*"]
    assert Grants.of(admin=True).may_subscribe(parse_pattern("*"))


def test_a_narrower_deny_leaves_the_subscription_and_takes_out_publications() -> None:
    """A deny within a granted pattern is applied to each publication."""
    grants = Grants.of(subscribe=["grid.*"], deny_subscribe=["grid.*.pnl"])
    assert grants.may_subscribe(parse_pattern("grid.*"))
    assert grants.may_receive(parse_channel("grid.a.status"))
    assert not grants.may_receive(parse_channel("grid.a.pnl"))
    assert not grants.may_subscribe(parse_pattern("grid.abc.pnl"))
    assert not grants.may_subscribe(parse_pattern("grid.+.pnl"))


def test_admin_neither_publishes_nor_commands() -> None:
    """Commands and publishing need their grants, whoever asks."""
    grants = Grants.of(admin=True)
    assert not grants.may_publish("a")
    assert not grants.may_command("a")


@given(st.text(st.characters()))
def test_any_text_can_be_an_action(action: str) -> None:
    """Asking about a command never raises, and ``*`` grants every one."""
    assert Grants.of(command=["*"]).may_command(action)
    assert not Grants.of(command=["grid.start"]).may_command(action + "!")


def test_by_default_nothing_is_granted() -> None:
    """Grants without a word allow nothing."""
    grants = Grants()
    assert grants == Grants.of()
    assert not any(grants.may_subscribe(parse_pattern(text)) for text in PATTERNS)
    assert not any(grants.may_publish(c) or grants.may_command(c) for c in CHANNELS)


def test_open_grants_all_but_publishing() -> None:
    """Open grants allow every subscription and every command and no publishing."""
    grants = Grants.open()
    assert all(grants.may_subscribe(parse_pattern(text)) for text in PATTERNS)
    assert all(grants.may_receive(c) and grants.may_command(c) for c in CHANNELS)
    assert not any(map(grants.may_publish, CHANNELS))


@pytest.mark.parametrize(
    "words", ["subscribe", "publish", "command", "deny_subscribe", "deny_publish", "deny_command"]
)
def test_each_list_is_parsed(words: str) -> None:
    """Each argument becomes the patterns of its name; a bad one, or a bare text, is refused."""
    grants = Grants.of(**{words: (text for text in ["a.*", "b"])})  # type: ignore[arg-type]
    expected: tuple[Pattern, ...] = (parse_pattern("a.*"), parse_pattern("b"))
    assert getattr(grants, words) == expected
    assert grants == Grants(**{words: expected})  # type: ignore[arg-type]
    for bad in (["a*"], "abc", [None]):
        with pytest.raises(InvalidChannel):
            Grants.of(**{words: bad})  # type: ignore[arg-type]


def test_an_identity_is_a_value_and_keeps_its_claims_to_itself() -> None:
    """Identities cannot be changed, can be hashed, and do not print their claims."""
    identity = Identity("u1", Grants.of(subscribe=["a.*"]), 17.0, {"email": "secret"})
    assert identity == Identity("u1", Grants.of(subscribe=["a.*"]), 17.0, {"email": "secret"})
    assert len({identity, Identity("u2", Grants())}) == 2
    assert "secret" not in repr(identity)
    assert Identity("u2", Grants()).claims == {}
    assert Identity("u2", Grants()).expires_at is None
    with pytest.raises(AttributeError):
        identity.subject = "root"  # type: ignore[misc]


# --- what is no identity --------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [None, 5, "", b"ada", "\ud800", True])
def test_a_subject_is_a_text(subject: Any) -> None:
    """Anything else is refused when the identity is made."""
    with pytest.raises(UsageError, match="subject"):
        Identity(subject, Grants())


@pytest.mark.parametrize("end", ["soon", math.nan, -math.inf, True, [1], 10**400, -(10**400)])
def test_an_identity_ends_at_a_finite_second(end: Any) -> None:
    """Or never: no end, or an infinite one."""
    with pytest.raises(UsageError, match="expires_at"):
        Identity("ada", Grants(), end)
    assert Identity("ada", Grants(), math.inf).expires_at is None
    assert Identity("ada", Grants(), 5).expires_at == 5


@pytest.mark.parametrize("grants", [None, ["a.*"], {"subscribe": ["a"]}, Grants, "a.*"])
def test_an_identity_has_grants(grants: Any) -> None:
    """Nothing else says what it may do."""
    with pytest.raises(UsageError, match=r"Grants\.of"):
        Identity("ada", grants)


@pytest.mark.parametrize("field", ["subscribe", "publish", "command", "deny_subscribe"])
@pytest.mark.parametrize("value", [["a.*"], ("a.*",), "a.*", None, [parse_pattern("a.*")]])
def test_grants_are_made_of_patterns(field: str, value: Any) -> None:
    """Texts would grant nothing, and deny nothing: ``Grants.of`` parses them."""
    with pytest.raises(UsageError, match=rf"use Grants\.of\({field}="):
        Grants(**{field: value})


@pytest.mark.parametrize("value", [None, 5, "a.*", b"a"])
def test_several_patterns_are_expected(value: Any) -> None:
    """A single text, or nothing that can be gone through, is refused."""
    with pytest.raises(InvalidChannel):
        Grants.of(subscribe=value)


@pytest.mark.parametrize("admin", [1, "yes", None])
def test_admin_is_a_bool(admin: Any) -> None:
    """A truthy word could be a mistake, and would be a grave one."""
    with pytest.raises(UsageError, match="admin"):
        Grants.of(admin=admin)
