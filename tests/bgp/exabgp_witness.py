"""ExaBGP as an independent reader and writer of BGP messages.

Not a test: `test_bgp_witness.py` runs it under the interpreter that Debian's ExaBGP belongs to. It
reads one JSON document: `config` (an ExaBGP configuration of one neighbor), `decode` (messages in
hex); and writes one: `open` and `updates` (the messages in hex by which ExaBGP would offer itself
and the configuration's routes), `read` (what it makes of each message).
"""

import json
import sys

from exabgp.configuration.setup import environment

environment.setup("").log.enable = False

from exabgp.bgp.message import Open, Update  # noqa: E402
from exabgp.bgp.message.direction import Direction  # noqa: E402
from exabgp.bgp.message.open import ASN, HoldTime, RouterID, Version  # noqa: E402
from exabgp.bgp.message.open.capability import Capabilities, Negotiated  # noqa: E402
from exabgp.bgp.message.update.eor import EOR  # noqa: E402
from exabgp.configuration.configuration import Configuration  # noqa: E402
from exabgp.reactor.api.response import Response  # noqa: E402
from exabgp.version import json as json_version  # noqa: E402


def read(neighbor, negotiated, message):
    body = message[19:]
    if message[18] == 1:
        theirs = Open.unpack_message(body)
        own = negotiated.sent_open
        both = Negotiated(neighbor)
        both.sent(own)
        both.received(theirs)
        return {
            "asn": int(both.peer_as),
            "hold_time_s": int(theirs.hold_time),
            "router_id": str(theirs.router_id),
            "four_octet_as": bool(both.asn4),
            "families": sorted(f"{afi} {safi}" for afi, safi in both.families),
            "max_message": both.msg_size,
            "refresh": both.refresh,
            "capabilities": sorted(int(code) for code in theirs.capabilities),
            "graceful_restart": str(theirs.capabilities.get(64)),
        }
    update = Update.unpack_message(body, Direction.IN, negotiated)
    if isinstance(update, EOR):
        return {"eor": [str(nlri) for nlri in update.nlris]}
    text = Response.JSON(json_version).update(neighbor, "in", update, None, "", "")
    return json.loads(text)["neighbor"]["message"]["update"]


def main():
    task = json.load(sys.stdin)
    configuration = Configuration([task["config"]], True)
    if not configuration.reload():
        sys.exit(str(configuration.error))
    (neighbor,) = configuration.neighbors.values()
    capabilities = Capabilities().new(neighbor, False)
    own = Open(Version(4), ASN(neighbor.local_as), HoldTime(9), neighbor.router_id, capabilities)
    theirs = Open(
        Version(4), ASN(neighbor.peer_as), HoldTime(9), RouterID("192.0.2.99"), capabilities
    )
    negotiated = Negotiated(neighbor)
    negotiated.sent(own)
    negotiated.received(theirs)
    updates = [
        message.hex()
        for change in neighbor.changes
        for message in Update([change.nlri], change.attributes).messages(negotiated)
    ]
    answers = [read(neighbor, negotiated, bytes.fromhex(text)) for text in task["decode"]]
    json.dump({"open": own.message(None).hex(), "updates": updates, "read": answers}, sys.stdout)


main()
