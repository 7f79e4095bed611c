/* The kernel's multipath hash of a forwarded packet, to the bit (hash policy 3, fields 0x37), so
 * that `samepath trace`, the kernel's groups and this program name the same bucket. The layout that
 * is hashed, and Python's version of it: hashing/flow.py. */
#pragma once
#include "samepath.h"

struct flow {
	__u32 source[4], destination[4];	/* as on the wire; IPv4 in the first word */
	__u16 source_port, destination_port;	/* 0 for fragments, and where there are none */
	__u8 protocol, ipv4;
	__u8 kind, fragment;			/* not hashed */
};

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (sizeof(x) * 8 - (bits)))

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1; s->v1 = ROTATE(s->v1, 13) ^ s->v0; s->v0 = ROTATE(s->v0, 32);
	s->v2 += s->v3; s->v3 = ROTATE(s->v3, 16) ^ s->v2;
	s->v0 += s->v3; s->v3 = ROTATE(s->v3, 21) ^ s->v0;
	s->v2 += s->v1; s->v1 = ROTATE(s->v1, 17) ^ s->v2; s->v2 = ROTATE(s->v2, 32);
}

static __always_inline void absorb(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

/* Which address comes first: IPv6 octet by octet, IPv4 as a little-endian machine reads it. */
static __always_inline int source_first(const struct flow *f)
{
	if (f->ipv4)
		return f->source[0] <= f->destination[0];
	for (int i = 0; i < 4; i++)
		if (f->source[i] != f->destination[i])
			return htonl(f->source[i]) < htonl(f->destination[i]);
	return 1;
}

/* SipHash-2-4 of `struct flow_keys`: 64 bits, of which the kernel takes the lower 32.
 * `begun` is the state after the protocol and what lies between it and the ports, all zero: a third
 * of the work, and the same for every packet of a protocol. */
static __always_inline __u64 flow_hash(const struct flow *f, const struct sip *begun)
{
	struct sip s = *begun;
	__u32 low = f->source_port, high = f->destination_port;
	const __u32 *a = f->source, *b = f->destination;

	if (low > high) {
		low = f->destination_port;
		high = f->source_port;
	}
	if (!source_first(f)) {
		a = f->destination;
		b = f->source;
	}
	absorb(&s, (__u64)(high << 16 | low) << 32);
	absorb(&s, (__u64)a[0] << 32);
	if (f->ipv4) {
		absorb(&s, b[0]);
		absorb(&s, 48ULL << 56);
	} else {
		absorb(&s, (__u64)a[2] << 32 | a[1]);
		absorb(&s, (__u64)b[0] << 32 | a[3]);
		absorb(&s, (__u64)b[2] << 32 | b[1]);
		absorb(&s, b[3]);
		absorb(&s, 72ULL << 56);
	}
	s.v2 ^= 0xff;
	for (int i = 0; i < 4; i++)
		sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* `fib_multipath_hash_from_keys` of a packet: jhash_2words(hash, 0, 0) >> 1. */
static __always_inline __u32 multipath_hash(__u64 hash)
{
	__u32 c = 0xdeadbeef + (2 << 2), b = c, a = c;

	a += (__u32)hash ? (__u32)hash : 1;
	c ^= b; c -= ROTATE(b, 14);
	a ^= c; a -= ROTATE(c, 11);
	b ^= a; b -= ROTATE(a, 25);
	c ^= b; c -= ROTATE(b, 16);
	a ^= c; a -= ROTATE(c, 4);
	b ^= a; b -= ROTATE(a, 14);
	c ^= b; c -= ROTATE(b, 24);
	return c >> 1;
}
