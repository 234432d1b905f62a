"""What clients asked of a server, when they asked, and when they had the answer."""

import hashlib
import time
from dataclasses import dataclass, field


def now():
    return time.time_ns()


@dataclass
class Asked:
    """A call. Both times are the client's: what it had when it had it."""

    begun: int = field(default_factory=now)
    answered: int | None = None

    def had_begun(self, at):
        return self.begun < at

    def was_answered(self, at):
        return self.answered is not None and self.answered < at


@dataclass
class License(Asked):
    email: str = ""
    seats: int = 0
    key: str = ""


@dataclass
class Activation(Asked):
    license: License = None
    email: str = ""
    nonce: bytes = b""
    binding: bytes = b""
    # The answer as it came, or why there is none.
    answer: bytes = b""
    refused: str = ""

    @property
    def id(self):
        inputs = b"countersign/activation/v1" + self.nonce + self.binding
        return hashlib.sha256(inputs).digest()[:16]


@dataclass
class Deactivation(Asked):
    activation: Activation = None


@dataclass
class Rectification(Asked):
    old: str = ""
    new: str = ""
    # Who is to be told.
    recipients: list = field(default_factory=list)


@dataclass
class Erasure(Asked):
    email: str = ""
    keeps_licenses: bool = False
    # The master key that is of no use any more once it is answered.
    master_key: bytes = b""
    id: bytes = b""


@dataclass
class Rotation(Asked):
    key_id: str = ""


@dataclass
class Backup(Asked):
    """Made while nothing else was asked."""


@dataclass
class History:
    made: Asked = None
    licenses: list = field(default_factory=list)
    activations: list = field(default_factory=list)
    deactivations: list = field(default_factory=list)
    rectifications: list = field(default_factory=list)
    erasures: list = field(default_factory=list)
    rotations: list = field(default_factory=list)
    # All of them to one place.
    backups: list = field(default_factory=list)
    # Names of what was done, and when it began.
    phases: list = field(default_factory=list)
