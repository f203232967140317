from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.servers import KINDS, Kind, Server, Servers


def is_up(server: Server) -> bool:
    try:
        socket.create_connection(server.address, 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", KINDS)
def test_each_server_is_shared_and_up(name: str, servers: Servers) -> None:
    """A shared server takes connections when it is given out, and is started once."""
    server = servers.of(name)

    assert is_up(server)
    assert servers.of(name) is server


@pytest.mark.parametrize("name", KINDS)
def test_a_server_comes_back_on_its_port(name: str, start_server: Callable[..., Server]) -> None:
    """A server that was killed or restarted is up again on the same port when the call returns."""
    server = start_server(name)
    address, pid = server.address, server.pid

    server.kill()
    assert not is_up(server)
    server.start()
    assert is_up(server)
    server.restart()
    assert is_up(server)

    assert server.address == address
    assert server.pid != pid


@pytest.mark.parametrize("name", KINDS)
def test_a_frozen_server_keeps_its_sockets_and_says_nothing(
    name: str, start_server: Callable[..., Server]
) -> None:
    """A frozen server takes connections, and answers once it goes on; it can be killed frozen."""
    server = start_server(name)
    server.freeze()
    with socket.create_connection(server.address, 5) as probe:
        probe.sendall(b"PING\r\n")
        probe.settimeout(0.1)
        with pytest.raises(TimeoutError):
            probe.recv(4096)
        server.thaw()
        probe.settimeout(10)
        assert probe.recv(4096)
    server.freeze()
    server.kill()
    assert not is_up(server)


def test_a_missing_program_skips_or_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is not installed skips with the install line, and fails where services are required."""
    kind = Kind(
        name="nothing",
        scheme="nothing",
        find=lambda: None,
        install="apt-get install -y nothing",
        arguments=lambda port, directory: [],
    )
    monkeypatch.delenv("WSBUS_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install -y nothing"):
        Server(kind)
    monkeypatch.setenv("WSBUS_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install -y nothing"):
        Server(kind)
