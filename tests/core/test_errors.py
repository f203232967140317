from __future__ import annotations

import pytest

from wsbus.core import errors
from wsbus.core.errors import (
    BrokerUnavailable,
    CloseCode,
    CommandError,
    ErrorCode,
    InvalidChannel,
    NotStarted,
    RemoteError,
    TransportClosed,
    Unauthenticated,
    UsageError,
    WsbusError,
    may_reconnect,
)


def test_the_branch_says_whom_to_blame() -> None:
    """Every error is the peer's fault, or the caller's, or a broker's, and only one of these."""
    tree = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, WsbusError)
        and kind not in {WsbusError, RemoteError, UsageError, BrokerUnavailable}
    ]

    assert len(tree) == 12
    assert all(issubclass(kind, RemoteError) != issubclass(kind, UsageError) for kind in tree)


def test_error_codes_are_the_words_that_clients_see() -> None:
    """The table of codes: each is its own word, and a client that knows it finds it here."""
    assert {code.name: code.value for code in ErrorCode} == {
        name: name
        for name in (
            "INVALID_MESSAGE",
            "UNKNOWN_TYPE",
            "INVALID_CHANNEL",
            "UNAUTHENTICATED",
            "FORBIDDEN",
            "TOO_MANY_SUBSCRIPTIONS",
            "RATE_LIMITED",
            "UNAVAILABLE",
            "POSITION_LOST",
            "NO_HISTORY",
            "NO_PRESENCE",
            "NO_STREAM",
            "NOT_REPEATABLE",
            "UNKNOWN_ACTION",
            "VALIDATION_ERROR",
            "TIMEOUT",
            "INTERNAL_ERROR",
        )
    }


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (CloseCode.NORMAL, 1000),
        (CloseCode.GOING_AWAY, 1001),
        (CloseCode.PROTOCOL_ERROR, 1002),
        (CloseCode.UNSUPPORTED_DATA, 1003),
        (CloseCode.NO_STATUS, 1005),
        (CloseCode.ABNORMAL, 1006),
        (CloseCode.INVALID_PAYLOAD, 1007),
        (CloseCode.MESSAGE_TOO_BIG, 1009),
        (CloseCode.INTERNAL_ERROR, 1011),
        (CloseCode.SERVICE_RESTART, 1012),
        (CloseCode.TOKEN_EXPIRED, 4401),
        (CloseCode.HEARTBEAT_TIMEOUT, 4408),
        (CloseCode.TOO_SLOW, 4409),
        (CloseCode.RATE_ABUSE, 4429),
        (CloseCode.TOKEN_REFUSED, 4500),
        (CloseCode.REPLACED, 4509),
        (CloseCode.DISCONNECTED, 4510),
    ],
)
def test_close_codes_are_the_numbers_that_clients_see(code: CloseCode, number: int) -> None:
    """The table of close codes, as RFC 6455 and the clients have it."""
    assert code == number


def test_the_table_of_close_codes_is_whole() -> None:
    """No code is without a row in the test above."""
    assert len(CloseCode) == 17


@pytest.mark.parametrize("code", [1001, 1006, 1009, 1011, 1012, 4000, 4401, 4409, 4429, 4499])
def test_some_closes_invite_to_come_again(code: int) -> None:
    """Networks, restarts and the application's 4000 to 4499 are worth another try."""
    assert may_reconnect(code)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 4500, 4509, 4510, 4999])
def test_some_closes_ask_not_to_come_again(code: int) -> None:
    """A farewell, a client that will fail again, and the application's 4500 to 4999."""
    assert not may_reconnect(code)


@pytest.mark.parametrize("code", [3999, 5000])
def test_codes_outside_the_ranges_are_worth_a_try(code: int) -> None:
    """The ranges end where they end."""
    assert may_reconnect(code)


def test_a_command_error_holds_what_the_client_is_told() -> None:
    """Code and message are fields; a code from the table is a plain word in them."""
    error = CommandError(ErrorCode.VALIDATION_ERROR, "upper_price must be greater")

    assert (type(error.code), error.code) == (str, "VALIDATION_ERROR")
    assert error.message == "upper_price must be greater"
    assert str(error) == "VALIDATION_ERROR: upper_price must be greater"


def test_a_refused_token_has_words_for_the_client() -> None:
    """Without words of the authenticator there are some all the same."""
    assert Unauthenticated().message == str(Unauthenticated()) == "the token was refused"
    assert Unauthenticated("the token has expired").message == "the token has expired"


def test_a_closed_transport_tells_code_and_reason() -> None:
    """A connection that ended without a close frame has code 1006."""
    assert (TransportClosed().code, TransportClosed().reason) == (1006, "")
    assert (TransportClosed(4500, "no").code, TransportClosed(4500, "no").reason) == (4500, "no")


def test_an_invalid_channel_is_a_value_error_too() -> None:
    """Who validates with the standard library's errors catches it; its words are a field."""
    error = InvalidChannel("a segment is empty")

    assert isinstance(error, ValueError)
    assert error.reason == str(error) == "a segment is empty"


def test_a_bus_that_is_not_running_says_how_to_run_it() -> None:
    """The error names the cure."""
    assert "async with bus" in str(NotStarted())
