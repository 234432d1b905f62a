"""Promise: what takes long shows how far it is, on a terminal and nowhere else."""

import os
import pty
import re
import subprocess

from support import activation

BAR = re.compile(rb"\d+/(\d+) .*/s")


def shown(command):
    """What a command shows on a terminal; a reader gets an error where its last writer is gone."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while more := os.read(ours, 4096):
            output += more
    except OSError:
        pass
    os.close(ours)
    assert running.wait() == 0, output
    return output


def test_a_bar_is_shown_on_a_terminal_alone(server, tmp_path):
    license = server.issue(seats=20)
    for _ in range(20):
        server.activate(activation(license))
    backup = tmp_path / "backup"
    for arguments in (["backup", backup], ["verify", backup]):
        check(server, arguments)
    server.stop()
    for arguments in (["verify"], ["verify", "--deep"], ["views", "rebuild"], ["restore", backup]):
        check(server, arguments)
    server.start()


def check(server, arguments):
    command = [os.environ["COUNTERSIGN_BIN"], "--dir", server.directory, *arguments]
    bars = BAR.findall(shown(command))
    assert bars and int(bars[-1]) >= 20, arguments
    quiet = subprocess.run(command, check=True, capture_output=True)
    assert quiet.stderr == b"", arguments
