"""A server's process and its clients, without anything that a thousand starts do not need."""

import os
import re
import select
import subprocess

import grpc

BINARY = os.environ["COUNTERSIGN_BIN"]
# A server that hangs is a failure, and not a wait.
DEADLINE = 60
LISTENING = re.compile(r"listening public=(\S+) staff=(\S+)\n")
ANY_PORT = "127.0.0.1:0"
SERVE = ("serve", "--public-listen", ANY_PORT, "--staff-listen", ANY_PORT)


class Refused(Exception):
    """The server did not start; what it said."""


class Calls:
    """Calls on one channel, of bytes: what comes back is compared, not read."""

    def __init__(self, address, tls):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.secure_channel(address, tls, options)
        self.methods = {}

    def begin(self, service, method, request):
        path = f"/countersign.v1.{service}/{method}"
        if path not in self.methods:
            self.methods[path] = self.channel.unary_unary(path)
        return self.methods[path].future(request, timeout=DEADLINE)

    def close(self):
        self.channel.close()


class Clients:
    """An app, and staff by their roles."""

    def __init__(self, directory, public, staff, roles):
        def read(name):
            with open(f"{directory}/tls/{name}", "rb") as file:
                return file.read()

        ca = read("server-ca.pem")
        self.app = Calls(public, grpc.ssl_channel_credentials(ca))
        self.staff = {}
        for role in roles:
            key, certificate = read(f"staff/{role}.key"), read(f"staff/{role}.pem")
            self.staff[role] = Calls(staff, grpc.ssl_channel_credentials(ca, key, certificate))

    def close(self):
        for calls in (self.app, *self.staff.values()):
            calls.close()


class Server:
    def __init__(self, directory, log_path, roles, binary=BINARY):
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(
                [binary, "--dir", directory, *SERVE],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = ""
        if select.select([self.process.stdout], [], [], DEADLINE)[0]:
            line = self.process.stdout.readline()
        listening = LISTENING.fullmatch(line)
        if not listening:
            self.process.kill()
            code = self.process.wait()
            self.process.stdout.close()
            with open(log_path, encoding="utf-8", errors="replace") as log:
                raise Refused(f"exit code {code}: {log.read()[-3000:]}")
        self.clients = Clients(directory, *listening.groups(), roles)

    def stop(self, kill=False):
        """Ends it; its exit code."""
        self.clients.close()
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            return self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.stdout.close()
