from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.server.clients import connecting, quiet
from wsbus import Bus, Connection, Endpoint, Limits
from wsbus.bus import host_of
from wsbus.endpoint import Refusal
from wsbus.server.connection import driver_of
from wsbus.server.registry import Registry

MOST: Final = 2


class Conn:
    """What the registry asks of a connection."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self.endpoint = endpoint
        self.id = name


def make_endpoints() -> list[Endpoint]:
    """Return endpoints with and without names, of two authenticators."""
    bus = Bus()

    def one(token: object, handshake: object) -> None:
        return None

    def two(token: object, handshake: object) -> None:
        return None

    named: dict[str, Any] = {"name_connection": lambda handshake: "unused"}
    few = Limits(max_connections_per_identity=MOST)
    return [
        bus.endpoint(authenticator=one),
        bus.endpoint(authenticator=one, **named),
        bus.endpoint(authenticator=two, **named, on_duplicate="reject"),
        bus.endpoint(authenticator=two, **named, limits=few),
    ]


class RegistryMachine(RuleBasedStateMachine):
    """Against lists that are searched from end to end.

    docs/reference/protocol.md: "A name belongs to the subject that holds it. A connection of the
    same subject takes it over, or is refused, as the endpoint says; a connection of another
    subject is refused."
    """

    def __init__(self) -> None:
        super().__init__()
        self.endpoints = make_endpoints()
        self.registry: Registry[Conn] = Registry()
        self.held: list[Conn] = []
        self.leaving: list[Conn] = []
        self.subjects: dict[Conn, str] = {}
        self.holders: list[Conn] = []  # Of names, one for each.
        self.made = 0

    @rule(which=st.integers(0, 3), name=st.sampled_from("xy"))
    def add(self, which: int, name: str) -> None:
        endpoint = self.endpoints[which]
        self.made += 1
        is_named = endpoint.name_connection is not None
        connection = Conn(endpoint, name if is_named else f"id-{self.made}")
        self.registry.add(connection)
        self.held.append(connection)
        if not is_named:
            self.holders.append(connection)

    @precondition(lambda self: any(c not in self.subjects for c in self.held))
    @rule(data=st.data(), subject=st.sampled_from("ab"))
    def adopt(self, data: st.DataObject, subject: str) -> None:
        new = data.draw(st.sampled_from([c for c in self.held if c not in self.subjects]))
        endpoint = new.endpoint
        is_named = endpoint.name_connection is not None
        holder = self.holder(new) if is_named else None
        is_present = holder in self.held
        of_subject = [
            c
            for c in self.held
            if c.endpoint is endpoint and self.subjects.get(c) == subject and c is not holder
        ]
        outcome = self.registry.adopt(new, subject)
        if is_present and holder is not None and self.subjects[holder] != subject:
            assert isinstance(outcome, Refusal)
            assert outcome.status == 409
        elif is_present and endpoint.on_duplicate == "reject":
            assert isinstance(outcome, Refusal)
        elif endpoint.limits.max_connections_per_identity and len(of_subject) >= MOST:
            assert isinstance(outcome, Refusal)
            assert outcome.status == 429
        else:
            assert outcome is holder
            self.subjects[new] = subject
            if is_named:
                self.holders = [c for c in self.holders if c is not holder] + [new]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.held))
        self.registry.remove(gone)
        self.registry.remove(gone)
        self.held.remove(gone)
        self.leaving.append(gone)

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.leaving))
        self.registry.free(gone)
        self.leaving.remove(gone)
        self.holders = [c for c in self.holders if c is not gone]
        self.subjects.pop(gone, None)

    def holder(self, connection: Conn) -> Conn | None:
        """Return the connection that has its name."""
        alike = [
            c for c in self.holders if (c.endpoint, c.id) == (connection.endpoint, connection.id)
        ]
        assert len(alike) <= 1
        return alike[0] if alike else None

    @invariant()
    def counts_are_the_connections_held(self) -> None:
        registry = self.registry
        assert registry.connected() == self.held
        assert len(registry) == len(self.held)
        assert registry.ever == self.made
        for endpoint in self.endpoints:
            here = [c for c in self.held if c.endpoint is endpoint]
            assert registry.connected(endpoint) == here
            assert registry.count(endpoint) == len(here)
            assert (endpoint in registry.endpoints()) == bool(here)

    @invariant()
    def names_and_subjects_are_those_of_connections_held(self) -> None:
        for connection in self.held + self.leaving:
            found = self.registry.named(connection.endpoint, connection.id)
            holder = self.holder(connection)
            assert found is (holder if holder in self.held else None)
            assert self.registry.is_leaving(connection)
        everyone = [*self.leaving, *self.held[::-1]]
        assert self.registry.present([*everyone, *everyone]) == self.held[::-1]
        for realm in (1, 2):
            for subject in "ab":
                theirs = [
                    c
                    for c in self.held
                    if c.endpoint.realm == realm and self.subjects.get(c) == subject
                ]
                assert same(self.registry.of(realm, subject), theirs)


def same(some: Iterable[Conn], others: Iterable[Conn]) -> bool:
    """Tell whether they are the same connections, in any order."""
    return {*some} == {*others}


TestRegistry = RegistryMachine.TestCase


async def test_the_application_and_the_registry_hold_two_sides_of_a_connection() -> None:
    """Each driver has one connection, and each connection one driver, however it is found."""
    bus = Bus()
    given: list[Connection] = []
    bus.on_connect(given.append)
    endpoint, other = bus.endpoint(), bus.endpoint()
    async with bus, connecting(endpoint) as connect, connecting(other) as connect_there:
        for _ in range(3):
            await (await connect()).subscribe("a")
        await connect_there()
        await quiet()
        drivers = host_of(bus).services.registry.connected()

        assert [driver.connection for driver in drivers] == given
        assert [driver_of(connection) for connection in given] == drivers
        assert [bus.connection(connection.id) for connection in given] == given
        assert bus.local_subscribers("a") == given[:3]
        assert len(set(given)) == len(bus.connections()) == 4
        assert (endpoint.connection_count, other.connection_count) == (3, 1)
        given[0].abort()
        await quiet()
        assert (endpoint.connection_count, other.connection_count) == (2, 1)
    assert (endpoint.connection_count, other.connection_count) == (0, 0)
