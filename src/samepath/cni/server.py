"""The socket at which the plugin asks: `run_dir`/cni.sock, for root only.

Each of a few threads waits for a connection by itself, reads the request and the descriptor of the
pod's namespace that travels with it, does what is asked, and answers: the kernel hands a connection
to the thread that will serve it. No event loop stands between, which may be busy with routes for
tens of milliseconds (an idle one costs 0.02 ms). As many requests run at once as there are threads;
others wait in the socket's queue.

If the shim goes away in the middle, the operation still runs to its end: an attachment that nobody
has heard of has its record, and goes with DEL or GC. Descriptors are closed whatever happens.

Called by `programs.pods`. Not done: what is asked (`cni.operations`), how it is said (`cni.wire`).

Standards: unix(7) (SCM_RIGHTS, SO_PEERCRED).
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path

from samepath.cni.errors import CniError, Code, encode_error
from samepath.cni.operations import Operations
from samepath.cni.spec import Command, Request, decode_request
from samepath.cni.versions import version_of
from samepath.cni.wire import RequestReader, WireError, WireRequest, encode_answer

log = logging.getLogger("samepath.cni")

NAME = "cni.sock"
THREADS = 16
QUEUE = 256
PATIENCE_S = 10.0
"""The shim has so long to ask, and so long to read the answer."""
STOP_S = 10.0
"""Operations under way have so long to end."""
_RECEIVE_OCTETS = 64 * 1024
_DESCRIPTORS = 4
_CREDENTIALS = struct.Struct("@iII")


class Server:
    def __init__(self, run_dir: Path, operations: Operations, *, threads: int = THREADS) -> None:
        """Listens at once, serves from `start` on. A socket that a dead process has left is
        replaced. Raises OSError."""
        self.path = run_dir / NAME
        self.answered: Counter[str] = Counter()
        """By command, such as `ADD`, and `ADD failed`."""
        self._operations = operations
        self._listener = _listen(self.path)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"cni-{number}") for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, limit_s: float = STOP_S) -> bool:
        """Take no more requests, and let those under way end. False if some have not."""
        self._stopping = True
        self._listener.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + limit_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        self.path.unlink(missing_ok=True)
        return not any(thread.is_alive() for thread in self._threads)

    # -- One connection -----------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.error("no connection can be taken: %s", error)
                time.sleep(0.1)  # out of descriptors: let others give some back
                continue
            with connection:
                try:
                    self._attend(connection)
                except (WireError, TimeoutError) as error:
                    log.warning("a request was not understood: %s", error)
                except ConnectionError:
                    log.info("the plugin has gone before it had its answer")
                except Exception:
                    log.exception("a request has met a fault of ours")

    def _attend(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        if not _is_root(connection):
            log.warning("a connection of another user was refused")
            return
        descriptors: list[int] = []
        try:
            asked = _receive(connection, descriptors)
            if asked is not None:
                status, answer = self._answer(asked, descriptors[0] if descriptors else None)
                connection.sendall(encode_answer(status, answer))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(self, asked: WireRequest, namespace: int | None) -> tuple[int, bytes]:
        """Exit status, and what to print."""
        began = time.monotonic()
        request: Request | None = None
        try:
            request = decode_request(asked.environment, asked.stdin)
            answer = self._operations.answer(request, namespace, asked.netns_errno)
        except CniError as error:
            failure = error
        except Exception:
            log.exception("a request has met a fault of ours")
            failure = CniError(
                Code.TRY_AGAIN_LATER, "the agent has met a fault of its own; its log says which"
            )
        else:
            self._tell(request, began, "")
            return 0, answer
        self._tell(request, began, str(failure))
        return 1, encode_error(failure, version_of(asked.stdin))

    def _tell(self, request: Request | None, began: float, failure: str) -> None:
        command = request.command.name if request is not None else "request"
        self.answered[f"{command} failed" if failure else command] += 1
        who = f" {request.container_id} {request.ifname}" if request and request.ifname else ""
        took_ms = (time.monotonic() - began) * 1000
        if failure:
            log.warning("%s%s: %s", command, who, failure)
        elif request is None or request.command not in (Command.STATUS, Command.VERSION):
            log.info("%s%s: done in %.1f ms", command, who, took_ms)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)  # its directory is 0700 from the beginning
        listener.listen(QUEUE)
    except OSError:
        listener.close()
        raise
    return listener


def _is_root(connection: socket.socket) -> bool:
    """Or whoever we are."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


def _receive(connection: socket.socket, descriptors: list[int]) -> WireRequest | None:
    """The request, its descriptors into `descriptors`; None: it was a probe, and said nothing.
    Raises WireError, TimeoutError, ConnectionError."""
    reader = RequestReader()
    end = time.monotonic() + PATIENCE_S
    began = False
    while time.monotonic() < end:
        data, received, _, _ = socket.recv_fds(
            connection, _RECEIVE_OCTETS, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        descriptors += received
        if not data:
            if not began:
                return None
            raise WireError("it ended in the middle")
        began = True
        request = reader.feed(data)
        if request is not None:
            return request
    raise TimeoutError(f"not complete after {PATIENCE_S:g} s")
