"""TCP and UDP between namespaces, for tests: servers that say their name, clients that hold on.

Run as a program (`python flows.py serve|client ...`) inside a namespace; driven by `Server` and
`Client` from the test.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from typing import Any

from samepath.lab.netns import Namespace


class Server:
    """Answers each line with its name, on TCP and UDP, IPv4 and IPv6."""

    def __init__(self, host: Namespace, name: str, port: int) -> None:
        command = (sys.executable, __file__, "serve", name, str(port))
        self.process = host.popen(*command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Client:
    """Holds connections by name. Answers: the server's name, or what went wrong."""

    def __init__(self, host: Namespace) -> None:
        command = (sys.executable, __file__, "client")
        self.process = host.popen(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: Any) -> Any:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def open(self, name: str, host: str, port: int, source_port: int = 0) -> str:
        """Connect and ask for the server's name."""
        return str(self.ask("open", name, host, port, source_port))

    def echo(self, name: str) -> str:
        return str(self.ask("echo", name))

    def once(self, host: str, port: int) -> str:
        return str(self.ask("once", host, port))

    def source(self, host: str, port: int) -> str:
        """The address that the server sees."""
        return str(self.ask("source", host, port))

    def many(self, host: str, port: int, count: int) -> dict[str, int]:
        return dict(self.ask("many", host, port, count))

    def udp(self, host: str, port: int, source_port: int = 0) -> str:
        return str(self.ask("udp", host, port, source_port))

    def stray(self, name: str) -> str:
        """Send a packet of the connection that is far out of its window."""
        return str(self.ask("stray", name))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def serve(name: str, port: int) -> None:
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = [socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)]
    udp[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    udp[0].bind(("0.0.0.0", port))
    udp[1].bind(("::", port))
    print("ready", flush=True)
    held: list[socket.socket] = []
    while True:
        for ready in select.select([tcp, *udp, *held], [], [])[0]:
            if ready is tcp:
                held.append(tcp.accept()[0])
            elif ready in udp:
                _, peer = ready.recvfrom(100)
                ready.sendto(f"{name} {peer[0]}".encode(), peer)
            else:
                try:
                    data = ready.recv(100)
                    if data:
                        peer = ready.getpeername()[0].removeprefix("::ffff:")
                        ready.sendall(f"{name} {peer}\n".encode())
                except OSError:
                    data = b""
                if not data:
                    held.remove(ready)
                    ready.close()


def say(connection: socket.socket, word: int = 0) -> str:
    connection.sendall(b"who?\n")
    return connection.recv(100).decode().split()[word]


def client() -> None:
    held: dict[str, socket.socket] = {}
    for line in sys.stdin:
        what, *words = json.loads(line)
        try:
            print(json.dumps(answer(held, what, *words)), flush=True)
        except (ConnectionRefusedError, ConnectionResetError):
            print('"refused"' if what != "echo" else '"reset"', flush=True)
        except TimeoutError:
            print('"timeout"', flush=True)
        except (OSError, IndexError) as error:
            print(json.dumps(str(error)), flush=True)


def answer(held: dict[str, socket.socket], what: str, *words: Any) -> Any:
    match what, *words:
        case "open", name, host, port, source_port:
            held[name] = socket.create_connection(
                (host, port), timeout=4, source_address=("", source_port)
            )
            return say(held[name])
        case "echo", name:
            return say(held[name])
        case "close", name:
            held.pop(name).close()
            return "closed"
        case "stray", name:
            stray(held[name])
            return "sent"
        case "once", host, port:
            with socket.create_connection((host, port), timeout=4) as connection:
                return say(connection)
        case "source", host, port:
            with socket.create_connection((host, port), timeout=4) as connection:
                return say(connection, 1)
        case "many", host, port, count:
            found: dict[str, int] = {}
            for _ in range(count):
                with socket.create_connection((host, port), timeout=4) as connection:
                    who = say(connection)
                    found[who] = found.get(who, 0) + 1
            return found
        case "udp", host, port, source_port:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as connection:
                connection.bind(("", source_port))
                connection.settimeout(4)
                connection.connect((host, port))
                connection.send(b"who?")
                return connection.recv(100).decode().split()[0]
    raise ValueError(what)


def stray(connection: socket.socket) -> None:
    """IPv4 only. The packet acknowledges what a living one would: a reset in answer to it would be
    taken for real."""
    taps = socket.htons(0x0003)  # ETH_P_ALL
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, taps) as tap:
        tap.settimeout(4)
        say(connection)
        port = connection.getsockname()[1].to_bytes(2, "big")
        while True:
            frame, (link, _, kind, *_) = tap.recvfrom(2000)
            header = 14 + 4 * (frame[14] & 15)
            is_tcp = frame[12:14] == b"\x08\x00" and frame[23] == 6
            if kind == 4 and is_tcp and frame[header : header + 2] == port:
                break  # PACKET_OUTGOING
        # Its own acknowledgement of the answer is the newest; take what comes within a moment.
        tap.settimeout(0.2)
        try:
            while True:
                newer, (_, _, kind, *_) = tap.recvfrom(2000)
                if kind == 4 and newer[header : header + 2] == port:
                    frame = newer
        except TimeoutError:
            pass
        packet = bytearray(frame[14:34] + frame[header : header + 20])
        packet[0] = 0x45
        packet[2:4] = len(packet).to_bytes(2, "big")
        sequence = int.from_bytes(packet[24:28], "big") + (1 << 28)
        packet[24:28] = (sequence % (1 << 32)).to_bytes(4, "big")
        packet[32] = 5 << 4
        packet[33] = 0x10  # ACK
        packet[10:12] = packet[36:38] = b"\0\0"
        packet[10:12] = checksum(packet[:20])
        pseudo = packet[12:20] + b"\0\x06" + (20).to_bytes(2, "big")
        packet[36:38] = checksum(pseudo + packet[20:])
        tap.bind((link, 0x0800))
        tap.send(frame[:14] + bytes(packet))


def checksum(data: bytes | bytearray) -> bytes:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2, "big")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        client()
