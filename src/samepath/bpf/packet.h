/* What a frame is: Ethernet, VLAN tags, IP, and as much of the transport header as the decision needs.
 *
 * Called by samepath.bpf.c, a reader for each layer. Each returns FORWARD (go on) or the reason to
 * pass the packet on to the kernel. Nothing is written to the packet here. Every read is within the
 * frame, which the verifier proves; that headers are within the length that IP gives is
 * checked once at the end (`headers` against `length`).
 */
#pragma once
#include "samepath.h"
#include "flow_hash.h"

#define EXTENSION_HEADERS 6		/* more: passed on */

struct ethernet { __u16 mac[6], type; };
struct tag { __u16 tci, type; };
struct ipv4 {
	__u8 header:4, version:4, tos;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 check;
	__u32 source, destination;
};
struct ipv6 {
	__u32 version;
	__u16 length;
	__u8 next, hops;
	__u32 source[4], destination[4];
};
struct extension { __u8 next, length; __u16 offset; __u32 id; };
struct tcp { __u16 source, destination; __u32 sequence, acknowledged; __u8 offset, flags; };
struct udp { __u16 source, destination, length, check; };
struct icmp { __u8 type, code; __u16 check; __u32 rest; };
struct quic { __u8 first, version[4]; };

enum { IPV4 = htons(0x0800), IPV6 = htons(0x86dd), VLAN_C = htons(0x8100), VLAN_S = htons(0x88a8) };
enum { ICMP = 1, TCP = 6, UDP = 17, DCCP = 33, ESP = 50, ICMPV6 = 58, SCTP = 132, UDPLITE = 136 };
enum { HOPOPTS = 0, ROUTING = 43, FRAGMENT = 44, DSTOPTS = 60 };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

struct frame {
	void *data, *end;
	__u32 length, gso;	/* of the whole frame; of a segment's payload, 0 if it is one packet */
	__u32 ifindex, depth;	/* VLAN tags */
	__u16 vlan, inner;	/* their identifiers, outermost first */
	__u8 check_mac;		/* XDP: nobody has looked yet whether the frame is for us */
};

struct packet {
	struct flow flow;
	void *ip;
	__u32 offset;		/* of the IP header in the frame */
	__u32 length, headers;	/* from there on: all, and what each segment of GSO repeats */
};

#define FITS(pointer, end) ((void *)((pointer) + 1) <= (end))

/* Ports, and whether this begins a flow. */
static __always_inline int read_transport(struct packet *p, void *at, void *end)
{
	struct flow *flow = &p->flow;
	struct udp *udp = at;
	struct tcp *tcp = at;

	switch (flow->protocol) {
	case TCP:
		if (!FITS(tcp, end))
			return TRUNCATED;
		if ((tcp->flags & (SYN | ACK | RST | FIN)) == SYN)
			p->flow.kind = OPENING;
		if (tcp->offset >> 4 < 5)
			return BAD_HEADER;
		p->headers += (tcp->offset >> 4) * 4;
		break;
	case UDP: {
		struct quic *quic = (void *)(udp + 1);

		if (!FITS(udp, end))
			return TRUNCATED;
		p->headers += sizeof(*udp);
		/* A client's datagrams with an Initial have at least 1200 octets, RFC 9000 §14.1. */
		if (ntohs(udp->length) < 1200 || !FITS(quic, end) || quic->first < 0x80)
			break;
		__u32 version = quic->version[0] << 24 | quic->version[1] << 16 |
				quic->version[2] << 8 | quic->version[3];
		__u32 type = quic->first >> 4 & 3;
		if ((version == 1 && type == 0) || (version == 0x6b3343cf && type == 1))
			p->flow.kind = OPENING;
		break;
	}
	case SCTP: case DCCP: case UDPLITE: case ESP:
		p->headers += 4;
		break;
	default:
		return FORWARD;
	}
	if (at + 4 > end)
		return TRUNCATED;
	flow->source_port = udp->source;
	flow->destination_port = udp->destination;
	return FORWARD;
}

/* The packet inside of an ICMP error went the other way, from the service: hashed as it is (both
 * directions hash alike), it names the bucket of its flow. */
static __always_inline int read_inner_ports(struct packet *p, void *at, void *end)
{
	struct flow *flow = &p->flow;
	__u16 *ports = at;

	if (flow->protocol != TCP && flow->protocol != UDP && flow->protocol != SCTP)
		return FORWARD;
	if (at + 4 > end)
		return TRUNCATED;
	p->headers += 4;
	flow->source_port = ports[0];
	flow->destination_port = ports[1];
	return FORWARD;
}

static __always_inline int read_icmp4(struct packet *p, void *at, void *end)
{
	struct icmp *icmp = at;
	struct ipv4 *inner = (void *)(icmp + 1);

	if (!FITS(icmp, end))
		return TRUNCATED;
	if (icmp->type != 3 && icmp->type != 11 && icmp->type != 12)
		return FORWARD;
	if (!FITS(inner, end))
		return TRUNCATED;
	if (inner->version != 4 || inner->header < 5 || inner->source != p->flow.destination[0])
		return FORWARD;		/* not of a packet that a service sent */
	p->flow.kind = ERROR;
	p->headers += sizeof(*icmp) + inner->header * 4;
	p->flow.source[0] = inner->destination;
	p->flow.protocol = inner->protocol;
	if (inner->fragment & htons(0x3fff))
		return FORWARD;
	return read_inner_ports(p, (void *)inner + inner->header * 4, end);
}

static __always_inline int read_ipv4(struct packet *p, void *end, struct service **service)
{
	struct ipv4 *ip = p->ip;
	struct address key = {};

	if (!FITS(ip, end))
		return TRUNCATED;
	if (ip->version != 4)
		return BAD_HEADER;
	key.word[2] = htonl(0xffff);
	key.word[3] = ip->destination;
	*service = bpf_map_lookup_elem(&services, &key);
	if (!*service)
		return NO_SERVICE;
	__u32 header = ip->header * 4;
	p->flow.ipv4 = 1;
	p->flow.source[0] = ip->source;
	p->flow.destination[0] = ip->destination;
	p->length = ntohs(ip->length);
	p->headers = header;
	p->flow.protocol = ip->protocol;
	if (header < sizeof(*ip) || p->length < header)
		return BAD_HEADER;
	__u32 source = htonl(ip->source);
	if (source >= 0xe0000000 || source >> 24 == 127 || source >> 24 == 0 ||
	    ip->source == ip->destination)
		return SOURCE;
	if (ip->ttl <= 1)
		return HOP_LIMIT;
	p->flow.fragment = !!(ip->fragment & htons(0x3fff));
	if (p->flow.fragment)
		return FORWARD;		/* later ones have no ports, so none has */
	if (ip->protocol == ICMP)
		return read_icmp4(p, p->ip + header, end);
	return read_transport(p, p->ip + header, end);
}

/* Past the extension headers that the kernel's own hash passes: `next` and `at` move on. */
static __always_inline int skip_extensions(__u8 *next, void **at, void *end, __u8 *fragment,
					   __u32 *headers)
{
	for (int i = 0; i <= EXTENSION_HEADERS; i++) {
		struct extension *header = *at;

		if (*next != HOPOPTS && *next != ROUTING && *next != DSTOPTS && *next != FRAGMENT)
			return FORWARD;
		if (!FITS(header, end))
			return TRUNCATED;
		__u8 was = *next;
		*next = header->next;
		if (was == FRAGMENT) {
			*at += sizeof(*header);
			*headers += sizeof(*header);
			*fragment = 1;
			return FORWARD;
		}
		*at += (header->length + 1) * 8;
		*headers += (header->length + 1) * 8;
	}
	return HEADERS;
}

static __always_inline int read_icmp6(struct packet *p, void *at, void *end)
{
	struct icmp *icmp = at;
	struct ipv6 *inner = (void *)(icmp + 1);
	__u8 next, fragment = 0;

	at = inner + 1;
	if (!FITS(icmp, end))
		return TRUNCATED;
	if (icmp->type < 1 || icmp->type > 4)
		return FORWARD;
	if (!FITS(inner, end))
		return TRUNCATED;
	for (int i = 0; i < 4; i++)
		if (inner->source[i] != p->flow.destination[i])
			return FORWARD;
	next = inner->next;
	p->headers += sizeof(*icmp) + sizeof(*inner);
	int reason = skip_extensions(&next, &at, end, &fragment, &p->headers);
	if (reason)
		return reason;
	p->flow.kind = ERROR;
	__builtin_memcpy(p->flow.source, inner->destination, 16);
	p->flow.protocol = next;
	return fragment ? FORWARD : read_inner_ports(p, at, end);
}

static __always_inline int read_ipv6(struct packet *p, void *end, struct service **service)
{
	struct ipv6 *ip = p->ip;
	struct address key;

	if (!FITS(ip, end))
		return TRUNCATED;
	if ((ip->version & 0xf0) != 0x60)
		return BAD_HEADER;
	__builtin_memcpy(&key, ip->destination, sizeof(key));
	*service = bpf_map_lookup_elem(&services, &key);
	if (!*service)
		return NO_SERVICE;
	__u32 first = htonl(ip->source[0]);
	__u8 next = ip->next;
	__builtin_memcpy(p->flow.source, ip->source, 16);
	__builtin_memcpy(p->flow.destination, ip->destination, 16);
	p->length = sizeof(*ip) + ntohs(ip->length);
	void *at = ip + 1;
	if (first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6 ||
	    !(ip->source[0] | ip->source[1] | ip->source[2] | (ip->source[3] & ~htonl(1))))
		return SOURCE;		/* multicast, link-local, :: and ::1 are never forwarded */
	if (ip->hops <= 1)
		return HOP_LIMIT;
	p->headers = sizeof(*ip);
	int reason = skip_extensions(&next, &at, end, &p->flow.fragment, &p->headers);
	if (reason)
		return reason;
	p->flow.protocol = next;
	if (p->flow.fragment)
		return FORWARD;
	if (next == ICMPV6)
		return read_icmp6(p, at, end);
	return read_transport(p, at, end);
}

/* Up to two VLAN tags; what lies behind them, or 0. */
static __always_inline __u16 read_ethernet(struct frame *f, struct packet *p)
{
	struct ethernet *ethernet = f->data;

	if (!FITS(ethernet, f->end))
		return 0;
	__u16 type = ethernet->type;
	p->ip = ethernet + 1;
	p->offset = sizeof(*ethernet);
	for (int i = 0; i < 2 && f->depth < 2; i++) {
		struct tag *tag = p->ip;

		if (likely(type != VLAN_C && type != VLAN_S) || !FITS(tag, f->end))
			break;
		if (f->depth++)
			f->inner = ntohs(tag->tci) & 0xfff;
		else
			f->vlan = ntohs(tag->tci) & 0xfff;
		type = tag->type;
		p->ip = tag + 1;
		p->offset += sizeof(*tag);
	}
	return type;
}
