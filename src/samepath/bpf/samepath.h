/* The maps and their structs. `layout.py` mirrors them; another layout needs another number there.
 * Who writes what, and in which order: docs/dataplane.md. */
#pragma once
#include "kernel.h"

struct address { __u32 word[4]; };	/* as on the wire; IPv4 as ::ffff:a.b.c.d */

struct service { __u32 first, count; };	/* its table's first bucket, its counter */

struct bucket {
	union {
		struct { __u16 owner, old; };	/* old: 0 outside a transition */
		__u32 owners;			/* both, in one store or load */
	};
	__u32 since;				/* tick of the transition's begin */
	__u32 stamp;				/* tick of the last packet that left by another hop */
	__u32 changed;				/* tick of the owner's last change; not read here */
};

struct hop {
	__u32 ifindex;
	__u16 mtu, vlan;
	__u32 macs[3];				/* destination, source: as a frame begins */
	__u8 flags, length;
	__u16 spare;
	struct address address;			/* for people and for adoption; not read here */
};
enum { HOP_ALIVE = 1, HOP_RESOLVED = 2 };

struct record { __u16 hop, kind; __u32 recorded, seen; };	/* one flow */
enum kind { MIDFLOW, OPENING, ERROR };

struct link_key { __u32 ifindex; __u16 vlan, inner; };
struct link { __u16 mac[3], spare; };
struct sip { __u64 v0, v1, v2, v3; };
struct settings {
	__u32 layout, seed;
	__u32 buckets, shift;			/* of each table; hash / buckets is */
	__u64 reciprocal;			/* hash * reciprocal >> shift */
	struct sip begun[256];			/* SipHash of each protocol, see flow_hash.h */
};
struct count { __u64 packets, octets; };

enum total {
	MOVED, TRACKED, UNKNOWN, DEAD_HOP, TABLE_FULL,
	/* why a packet was passed on to the kernel's own path */
	NOT_IP, NO_SERVICE, NOT_FOR_US, VLAN, TRUNCATED, BAD_HEADER, HEADERS, SOURCE, HOP_LIMIT,
	NO_OWNER, UNRESOLVED, TOO_BIG, TOTALS,
	FORWARD = 0,
};

#define MAP(name, kind, key_type, value_type, entries, flags) \
	struct { \
		__uint(type, kind); \
		__type(key, key_type); \
		__type(value, value_type); \
		__uint(max_entries, entries); \
		__uint(map_flags, flags); \
	} name SEC(".maps")

/* The loader sets the numbers of entries. */
MAP(services, BPF_MAP_TYPE_HASH, struct address, struct service, 1, 0);
MAP(buckets, BPF_MAP_TYPE_ARRAY, __u32, struct bucket, 1, BPF_F_MMAPABLE);
MAP(hops, BPF_MAP_TYPE_ARRAY, __u32, struct hop, 1, 0);
MAP(flows, BPF_MAP_TYPE_LRU_HASH, __u64, struct record, 1, 0);
MAP(links, BPF_MAP_TYPE_HASH, struct link_key, struct link, 1024, 0);
MAP(settings, BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1, 0);
MAP(service_counts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct count, 1, 0);
MAP(hop_counts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct count, 1, 0);
MAP(totals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, TOTALS, 0);

static __always_inline void add_total(enum total which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&totals, &key);

	if (value)
		++*value;
}

static __always_inline void add_count(void *map, __u32 key, __u32 octets)
{
	struct count *count = bpf_map_lookup_elem(map, &key);

	if (count) {
		count->packets++;
		count->octets += octets;
	}
}
