import pytest

from support import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with an empty log, for the tests of one file."""
    server = Server(tmp_path_factory.mktemp("server") / "data")
    yield server
    server.stop()
