"""Where the jobs of these tests meet."""

import socket

import pytest


@pytest.fixture
def port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
