"""ADD, DEL, CHECK, GC and STATUS, over the store and the wiring.

The order makes `kill -9` safe at every step:

    ADD   reserve (on disk) ── wire ── mark as wired (on disk) ── answer
    DEL   unwire ── release (on disk) ── answer

So whatever is in the kernel has a record, and an address with a record is nobody else's. What a
killed ADD leaves is a record, perhaps with a link; DEL, GC, the next ADD of the same attachment and
the next start (`settle`) each remove both. An ADD whose answer nobody heard is an attachment like
any other until DEL or GC.

One operation at a time for an attachment; different ones run side by side. GC holds up nobody: it
decides by what stood when it came, and leaves alone what is being worked at.

Called by `cni.server` in its threads, and by `programs.pods`. Blocking. Refusals are `CniError`.
What nobody will ask to remove is in `cni.leftovers`; choosing addresses in `cni.addresses`.

Standards: CNI 1.1.0, "CNI operations", "STATUS".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from samepath.cni import wiring
from samepath.cni.addresses import Addresses
from samepath.cni.attachment import Attachment, Key, State, alias_of
from samepath.cni.errors import CniError, Code
from samepath.cni.inspection import inspect
from samepath.cni.leftovers import Leftovers
from samepath.cni.namespaces import OpenKernel, open_kernel
from samepath.cni.outcome import differences, has_way_out, pod_interface, result_of
from samepath.cni.refusals import entered, of_the_kernel, of_the_store
from samepath.cni.result import Result, encode_result
from samepath.cni.spec import Command, Request
from samepath.cni.turns import Turns
from samepath.cni.versions import version_answer
from samepath.cni.wiring import Wanted, WiringError
from samepath.model.net import Family, address_text
from samepath.netlink.kernel import Kernel, RealKernel

log = logging.getLogger("samepath.cni")

ALIAS_OCTETS = 255
"""Linux: IFALIASZ less the NUL."""
LEAST_IPV6_MTU = 1280
"""RFC 8200 §5."""
MTU = 1500


class Operations:
    """What the plugin can be asked, for one node."""

    def __init__(
        self,
        addresses: Addresses | None = None,
        *,
        open_node: Callable[[], Kernel] = RealKernel,
        inside: OpenKernel = open_kernel,
        step: Callable[[str], None] = wiring.nothing,
    ) -> None:
        """`step` is the seam for tests: it is called with the name of each step once it is done."""
        self.addresses = addresses
        """None: the store cannot be used, `trouble` says why."""
        self.trouble: CniError | None = None
        """Why no ADD can be served at present; without store, why nothing can."""
        self.mtu = MTU
        """Of pods' links, where the network's configuration names none."""
        self._open_node = open_node
        self._inside = inside
        self._step = step
        self._local = threading.local()
        self._kernels: list[Kernel] = []
        self._kernels_lock = threading.Lock()
        self.turns = Turns()
        self.leftovers = Leftovers(self.turns, self._unmake)

    def answer(self, request: Request, namespace: int | None, errno: int | None = None) -> bytes:
        """What to print. `namespace` is a descriptor, and stays the caller's; `errno` says why
        there is none. Raises CniError."""
        match request.command:
            case Command.ADD:
                result = self.add(request, entered(request, namespace, errno))
                return encode_result(result, request.config.version)
            case Command.DEL:
                self.delete(request)
            case Command.CHECK:
                self.check(request, entered(request, namespace, errno))
            case Command.GC:
                self.collect(request)
            case Command.STATUS:
                self.status()
            case Command.VERSION:
                return version_answer(request.config.version)
        return b""

    def close(self) -> None:
        """No operation may be running."""
        for kernel in self._kernels:
            kernel.close()
        self._kernels.clear()
        self._local = threading.local()

    # -- ADD ----------------------------------------------------------------------------------

    def add(self, request: Request, namespace: int) -> Result:
        key = (request.container_id, request.ifname)
        addresses = self._usable(None, adding=True)
        alias = _alias(key, request.config.name)
        with self.turns.of(key):
            old = addresses.get(key)
            if old is not None:
                self._clear_up(addresses, old, namespace)
            made = self._take(addresses, request)
            self._step("reserved")
            try:
                wanted = Wanted(
                    made.host_link,
                    alias,
                    request.ifname,
                    made.addresses,
                    made.mac,
                    self._mtu(request, made),
                    first=not any(a.key[0] == key[0] and a.key != key for a in addresses.all()),
                )
                wired = self._wire(namespace, wanted, made)
                self._step("wired")
                with of_the_store():
                    addresses.wired(key)
            except BaseException:
                self._undo(addresses, key)
                raise
            self._step("recorded")
        return result_of(request, wanted, wired.defaults)

    def _clear_up(self, addresses: Addresses, old: Attachment, namespace: int) -> None:
        """What an ADD left behind that was killed, or an attachment whose namespace is gone. Raises
        CniError for a living one."""
        if old.state is State.WIRED and self._lives(old.key, namespace):
            texts = ", ".join(map(address_text, old.addresses))
            raise CniError(
                Code.ALREADY_ATTACHED,
                f"{old.key[1]} of container {old.key[0]} is attached already, with {texts}: the "
                "container runtime has to DEL it before it ADDs it again",
            )
        log.warning("%s: left over, removed before it is added anew", " ".join(old.key))
        self._unmake(addresses, old.key)

    def _lives(self, key: Key, namespace: int) -> bool:
        with of_the_kernel():
            return wiring.is_alive(self.node(), namespace, key, inside=self._inside)

    def _take(self, addresses: Addresses, request: Request) -> Attachment:
        mac = request.static_mac
        with of_the_store():
            return addresses.take(
                (request.container_id, request.ifname),
                request.config.name,
                static=request.static_ips,
                sandbox=request.netns,
                pod=request.pod,
                mac=bytes.fromhex(mac.replace(":", "")) if mac else None,
            )

    def _mtu(self, request: Request, made: Attachment) -> int:
        mtu = request.config.mtu or self.mtu
        if mtu < LEAST_IPV6_MTU and any(len(a) == Family.IPV6.octets for a in made.addresses):
            raise CniError(
                Code.INVALID_CONFIG,
                f"mtu: {mtu} is too small for IPv6, which needs {LEAST_IPV6_MTU}",
            )
        return mtu

    def _wire(self, namespace: int, wanted: Wanted, made: Attachment) -> wiring.Wired:
        def go() -> wiring.Wired:
            return wiring.attach(
                self.node(), namespace, wanted, inside=self._inside, step=self._step
            )

        with of_the_kernel():
            try:
                return go()
            except WiringError as error:
                if error.why is not wiring.Why.LINK_EXISTS:
                    raise
                # Without a record it can only be what a lost store has left of this attachment.
                if not wiring.detach(self.node(), made.key):
                    raise
            log.warning("link %s: without record, removed", wanted.host_link)
            return go()

    def _undo(self, addresses: Addresses, key: Key) -> None:
        """Back to nothing; the record stays if the link cannot be removed."""
        try:
            wiring.detach(self.node(), key)
        except (WiringError, OSError) as error:
            log.error("%s: could not be removed after a failed ADD: %s", " ".join(key), error)
            return
        addresses.release(key)

    # -- DEL ----------------------------------------------------------------------------------

    def delete(self, request: Request) -> None:
        self.remove((request.container_id, request.ifname))

    def remove(self, key: Key) -> None:
        """Whatever is not there is no fault. Raises CniError."""
        addresses = self._usable(Code.TRY_AGAIN_LATER)
        with self.turns.of(key):
            self._unmake(addresses, key)

    def _unmake(self, addresses: Addresses, key: Key) -> None:
        """Unwire and release, in the attachment's turn. Raises CniError."""
        with of_the_kernel():
            wiring.detach(self.node(), key)
        self._step("unwired")
        addresses.release(key)
        self._step("released")

    # -- CHECK --------------------------------------------------------------------------------

    def check(self, request: Request, namespace: int) -> None:
        key = (request.container_id, request.ifname)
        addresses = self._usable(Code.TRY_AGAIN_LATER)
        with self.turns.of(key):
            known = addresses.get(key)
            if known is None:
                raise CniError(
                    Code.UNKNOWN_CONTAINER,
                    f"container {key[0]} has no attachment {key[1]} here: DEL it and ADD it anew",
                )
            told = request.prev_result or Result()
            faults = differences(told, known)
            pod_end = pod_interface(told, request.ifname)
            wanted = Wanted(
                known.host_link,
                "",
                request.ifname,
                known.addresses,
                known.mac,
                request.config.mtu or (pod_end.mtu if pod_end and pod_end.mtu else 0),
                first=has_way_out(told),
            )
            with of_the_kernel():
                faults += inspect(self.node(), namespace, wanted, inside=self._inside)
        if faults:
            raise CniError(
                Code.NOT_AS_ADDED,
                f"{key[1]} of container {key[0]} is not as ADD made it: {faults[0]}; restart the "
                "pod, or DEL and ADD it anew",
                "; ".join(faults),
            )

    # -- GC -----------------------------------------------------------------------------------

    def collect(self, request: Request) -> None:
        """Remove every attachment of the network that is not valid, and what has no record."""
        addresses = self._usable(Code.TRY_AGAIN_LATER)
        if request.config.disable_gc:
            return
        valid = {(a.container_id, a.ifname) for a in request.config.valid_attachments}
        with of_the_kernel():
            faults = self.leftovers.collect(addresses, self.node(), request.config.name, valid)
        if faults:
            raise CniError(
                Code.IO_FAILURE,
                f"GC could not remove {len(faults)} of what is to go: {faults[0]}; the rest is "
                "removed, the next GC tries again",
                "; ".join(faults),
            )

    # -- STATUS -------------------------------------------------------------------------------

    def status(self) -> None:
        """Raises CniError where an ADD could not succeed."""
        stock = self._usable(Code.NOT_AVAILABLE, adding=True).stock()
        if stock.text:
            raise CniError(
                Code.NOT_AVAILABLE,
                f"no address for another pod: {stock.text}; remove pods, or give the node another "
                "block (an IPPool, pod_cidrs, or spec.podCIDRs of its Node)",
            )

    # -- What all need ------------------------------------------------------------------------

    def _usable(self, code: Code | None, *, adding: bool = False) -> Addresses:
        """Raises CniError, of this code or the trouble's own."""
        trouble = self.trouble
        if trouble is not None and (adding or self.addresses is None):
            raise CniError(code or trouble.code, trouble.msg, trouble.details)
        assert self.addresses is not None, "without store there is a trouble"
        return self.addresses

    def node(self) -> Kernel:
        """This thread's own."""
        kernel: Kernel | None = getattr(self._local, "kernel", None)
        if kernel is None:
            kernel = self._local.kernel = self._open_node()
            with self._kernels_lock:
                self._kernels.append(kernel)
        return kernel


def _alias(key: Key, network: str) -> str:
    for alias in (alias_of(key, network), alias_of(key)):
        if len(alias.encode()) <= ALIAS_OCTETS:
            return alias
    raise CniError(
        Code.INVALID_ENVIRONMENT,
        f"CNI_CONTAINERID: {len(key[0])} characters are too many to mark a link with",
    )
