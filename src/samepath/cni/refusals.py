"""What the world refuses, as the answer that a runtime gets: code, and a text that says what to do.

Called by `cni.operations` around what may fail. What the request itself has wrong is refused in
`cni.spec`.

Standards: CNI 1.1.0, "Error".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from errno import ENOSPC

from samepath.cni import wiring
from samepath.cni.addresses import AddressError
from samepath.cni.addresses import Why as NoAddress
from samepath.cni.errors import CniError, Code
from samepath.cni.namespaces import Fault, check
from samepath.cni.spec import Request
from samepath.cni.store import StoreError
from samepath.netlink.socket import NetlinkError

_ADDRESS_CODES = {
    NoAddress.NO_BLOCKS: Code.TRY_AGAIN_LATER,
    NoAddress.NO_BLOCK_OF_FAMILY: Code.NO_ADDRESS,
    NoAddress.EXHAUSTED: Code.NO_ADDRESS,
    NoAddress.ATTACHED: Code.ALREADY_ATTACHED,
    NoAddress.STATIC_NOT_OURS: Code.ADDRESS_NOT_OURS,
    NoAddress.STATIC_CLOSED: Code.ADDRESS_NOT_OURS,
    NoAddress.STATIC_IN_USE: Code.ADDRESS_TAKEN,
    NoAddress.STATIC_FAMILY_TWICE: Code.INVALID_CONFIG,
}
_WIRING_CODES = {
    wiring.Why.INTERFACE_EXISTS: Code.INTERFACE_EXISTS,
    wiring.Why.NAMESPACE_GONE: Code.NAMESPACE_GONE,
}


def entered(request: Request, namespace: int | None, errno: int | None) -> int:
    """The descriptor of the pod's namespace; `errno` says why there is none. Raises CniError."""
    if namespace is None:
        said = os.strerror(errno) if errno else "the shim has sent no descriptor of it"
        raise _gone(f"{request.netns}: {said}")
    fault = check(namespace)
    if fault is not Fault.NONE:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {request.netns}: {fault.value}")
    return namespace


def _gone(said: str) -> CniError:
    return CniError(
        Code.NAMESPACE_GONE,
        f"the pod's network namespace cannot be entered ({said}): the container runtime has to "
        "make it anew",
    )


@contextlib.contextmanager
def of_the_kernel() -> Iterator[None]:
    try:
        yield
    except wiring.WiringError as error:
        if error.why is wiring.Why.NAMESPACE_GONE:
            raise _gone(str(error)) from error
        code = _WIRING_CODES.get(error.why, Code.KERNEL_REFUSED)
        raise CniError(code, str(error)) from error
    except (NetlinkError, TimeoutError) as error:
        raise CniError(Code.TRY_AGAIN_LATER, f"the kernel did not answer: {error}") from error


@contextlib.contextmanager
def of_the_store() -> Iterator[None]:
    try:
        yield
    except AddressError as error:
        raise CniError(_ADDRESS_CODES[error.why], str(error)) from error
    except StoreError as error:
        todo = "make room on its disk" if error.errno == ENOSPC else "see to its disk"
        raise CniError(
            Code.IO_FAILURE, f"the attachment cannot be recorded, {todo}: {error}"
        ) from error
