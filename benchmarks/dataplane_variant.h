/* What `make bench BENCH=dataplane` adds to the program: put before it with -include.
 *
 * VARY makes each packet of a repeated run another one: a flow at random out of skb->priority
 * flows, to its service out of skb->mark. HARNESS ends there: what is to be subtracted.
 * ASK_FIB asks the kernel for the MACs at each packet, instead of a map that knows them. */
#pragma once
#include "kernel.h"

static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;

#ifndef HARNESS
#define HARNESS 0
#endif

#define VARY(skb, f) \
	do { \
		struct ipv4 *ip_ = (f).data + sizeof(struct ethernet); \
		struct udp *ports_ = (void *)(ip_ + 1); \
		if (!FITS(ports_, (f).end)) \
			return TRUNCATED; \
		__u32 flow_ = bpf_get_prandom_u32() % (skb)->priority; \
		ip_->ttl = 64; \
		ip_->source = htonl(0x09000000 + (flow_ >> 10)); \
		ip_->destination = htonl(0x0a000000 + flow_ % (skb)->mark); \
		ports_->source = htons(1024 + (flow_ & 1023)); \
		if (HARNESS) \
			return FORWARD; \
	} while (0)

struct fib_lookup {
	__u8 family, protocol;
	__u16 source_port, destination_port, length;
	__u32 ifindex, tos, source[4], destination[4];
	__u16 vlan[2];
	__u8 macs[12];
};

#ifdef WITH_FIB
#define ASK_FIB(skb, p, hop) \
	do { \
		struct fib_lookup ask_ = { 2, (p).flow.protocol, 0, 0, 0, (skb)->ifindex, 0, \
			{ (p).flow.source[0] }, { (hop)->address.word[0] }, {}, {} }; \
		if (bpf_fib_lookup((skb), &ask_, sizeof(ask_), 0)) \
			return UNRESOLVED; \
		(p).flow.source_port = ask_.macs[0]; \
	} while (0)
#endif
