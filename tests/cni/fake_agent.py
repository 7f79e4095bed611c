"""An agent for the tests of the shim: a socket, and one behaviour for whoever connects."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from samepath.cni.wire import RequestReader, WireRequest, encode_answer

LIMIT_S = 60


class Conversation:
    """One connection, from the agent's side."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(LIMIT_S)
        self.socket = connection
        self.octets = b""
        self.request: WireRequest | None = None
        self.descriptors: list[int] = []
        """Of the first octet; what came later would be in `late`."""
        self.late: list[int] = []

    def read(self) -> WireRequest:
        """The whole request, with its descriptors."""
        reader = RequestReader()
        while self.request is None:
            # One octet first: the descriptor must travel with it.
            size = 65536 if self.octets else 1
            data, descriptors, _, _ = socket.recv_fds(self.socket, size, 4)
            assert data, "the shim closed in the middle of its request"
            (self.late if self.octets else self.descriptors).extend(descriptors)
            self.octets += data
            self.request = reader.feed(data)
        return self.request

    def close(self) -> None:
        for descriptor in self.descriptors + self.late:
            os.close(descriptor)
        self.socket.close()


Behaviour = Callable[[Conversation], None]


def answering(status: int, body: bytes) -> Behaviour:
    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(encode_answer(status, body))

    return behave


class FakeAgent:
    """Listens at `path`; each connection is handed to `behave`, one after the other."""

    def __init__(self, path: Path, behave: Behaviour | None = None) -> None:
        self.behave = behave or answering(0, b"{}")
        self.conversations: list[Conversation] = []
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeAgent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for conversation in self.conversations:
            conversation.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                conversation = Conversation(self._socket.accept()[0])
                self.conversations.append(conversation)
                with suppress(OSError):  # the shim has gone, or the behaviour closed it
                    self.behave(conversation)
                    conversation.socket.shutdown(socket.SHUT_WR)

    @property
    def last(self) -> Conversation:
        return self.conversations[-1]
