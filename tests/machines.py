"""Several machines in one: network namespaces, each with its own loopback, address and ports, on one switch."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

NETWORK = "198.18"  # set aside for tests of networks


@dataclass
class Machine:
    """A network namespace, and the address under which the others and this machine reach it."""

    name: str
    address: str

    def command(self, command: list[str]) -> list[str]:
        """Return a command as it is run there."""
        return ["ip", "netns", "exec", self.name, *command]

    def unplug(self) -> None:
        """Let nothing through to it any more, nor from it."""
        _ip("link", "set", self.name, "down")

    def plug(self) -> None:
        _ip("link", "set", self.name, "up")


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Make so many machines; what runs there has to be ended before the block does."""
    assert os.geteuid() == 0, "Making network namespaces takes root: run this test as root, or in a container."
    mark, subnet = os.getpid(), f"{NETWORK}.{os.getpid() % 256}"
    made = [Machine(f"m{number}-{mark}", f"{subnet}.{number}") for number in range(1, count + 1)]
    with contextlib.ExitStack() as stack:
        switch = f"switch-{mark}"
        _ip("link", "add", switch, "type", "bridge")
        stack.callback(_ip, "link", "del", switch)
        _ip("address", "add", f"{subnet}.254/24", "dev", switch)
        _ip("link", "set", switch, "up")
        for machine in made:
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "del", machine.name)
            _ip("link", "add", machine.name, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            _ip("link", "set", machine.name, "master", switch, "up")
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", machine.name, "link", "set", interface, "up")
        yield made


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
