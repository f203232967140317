"""Templates of channels: their names, patterns and values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus import InvalidChannel, UsageError, escape_segment, parse_channel, parse_pattern
from wsbus.core.templates import Template

names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True)


@given(names, st.data())
def test_values_come_back_from_the_channel_that_they_made(
    parameters: list[str], data: st.DataObject
) -> None:
    """Whatever text is escaped into a value, the channel gives it back, and the pattern matches."""
    template = Template(".".join(["x", *(f"{{{name}}}" for name in parameters), "y"]))
    values = {name: escape_segment(data.draw(st.text(max_size=5))) for name in parameters}
    channel = template.channel(values)
    assert template.values(channel) == values
    assert template.pattern.matches(channel)
    assert template.names == tuple(parameters)
    chosen = {name: data.draw(st.sampled_from([value, "*"])) for name, value in values.items()}
    assert parse_pattern(template.selection(chosen)).matches(channel)


@given(names)
def test_a_selection_matches_only_channels_with_its_values(parameters: list[str]) -> None:
    """Each value that is given must be there; the others may be anything."""
    template = Template(".".join(f"{{{name}}}" for name in parameters))
    pattern = parse_pattern(template.selection({parameters[0]: 1}))
    assert pattern.matches(template.channel({**dict.fromkeys(parameters, "z"), parameters[0]: 1}))
    assert not pattern.matches(template.channel(dict.fromkeys(parameters, "z")))


def test_a_last_parameter_is_one_segment() -> None:
    """A last ``*`` would match deeper channels, which are of no template."""
    template = Template("grid.{id}")
    assert not template.pattern.matches(parse_channel("grid.a.b"))
    assert template.pattern.matches(parse_channel("grid.a"))


@pytest.mark.parametrize(
    "text",
    ["grid.x{id}", "grid.{id", "grid.{}", "grid.{1}", "grid.{a b}", "{a}.{a}", "grid.*", "+.{a}"],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    """A parameter is a whole segment with a name that Python can pass, and occurs once."""
    with pytest.raises((UsageError, InvalidChannel)):
        Template(text)


@pytest.mark.parametrize(
    "value", ["", "a.b", "*", "+", "a*", "a b", "\u200b", "#", 1.5, True, None]
)
def test_a_value_is_one_literal_segment(value: object) -> None:
    """No value changes what the channel is: not the number of its segments, nor a wildcard."""
    with pytest.raises(UsageError, match="id"):
        Template("grid.{id}").channel({"id": value})


def test_missing_and_unknown_parameters_are_named() -> None:
    """The error says what to write."""
    template = Template("grid.{id}.{part}")
    with pytest.raises(UsageError, match="needs part="):
        template.channel({"id": 1})
    with pytest.raises(UsageError, match="no parameter 'idd'; it has id, part"):
        template.channel({"id": 1, "part": 2, "idd": 3})
    with pytest.raises(UsageError, match="no parameter 'idd'"):
        template.selection({"idd": "*"})
    with pytest.raises(InvalidChannel, match="grid"):
        template.values("price.a.b")


def test_a_channel_that_was_made_before_is_refused_for_other_values() -> None:
    """What is kept at hand is for exactly its values: neither for more, nor for lists."""
    template, fixed = Template("grid.{id}"), Template("grid")
    assert template.channel({"id": "a"}) == template.channel({"id": "a"}) == "grid.a"
    assert fixed.channel({}) == fixed.channel({}) == "grid"
    with pytest.raises(UsageError, match="no parameter 'part'"):
        template.channel({"id": "a", "part": "b"})
    with pytest.raises(UsageError, match="no parameter 'id'"):
        fixed.channel({"id": "a"})
    with pytest.raises(UsageError, match="needs id="):
        template.channel({})
    with pytest.raises(UsageError, match="not list"):
        template.channel({"id": ["a"]})


def test_each_value_has_its_place_in_whatever_order_it_is_given() -> None:
    """Channels that were made before are told apart by parameter, too."""
    template = Template("grid.{id}.{part}")
    for _ in range(2):
        assert template.channel({"id": "a", "part": "b"}) == "grid.a.b"
        assert template.channel({"part": "b", "id": "a"}) == "grid.a.b"
        assert template.channel({"part": "a", "id": "b"}) == "grid.b.a"
