/* The BPF data plane: a packet for a service address goes to the node that its bucket names.
 *
 * Called by the kernel for every packet that arrives on a link of the gateway: at tc ingress
 * (`samepath_tc`; keeps GSO and checksum offload) or in the card's driver (`samepath_xdp`). In
 * order: frame, IP header, is it a service's; transport header; the flow's hash, which names a
 * bucket; the bucket's next hop, with the rules of a transition; new MACs, one hop less, out.
 * Whatever it cannot do as well as the kernel it passes on: the kernel has the same tables as
 * next hop groups underneath. Each such reason is counted (enum total).
 *
 * The rules of a transition, by which a bucket changes its owner and no flow does:
 * - outside a transition the owner takes every packet, and nothing is remembered;
 * - within one, a flow in the table goes where it is recorded, if that next hop lives; the start of
 *   a flow (SYN, QUIC Initial) goes to the new owner and is recorded; what is amid a flow that
 *   nothing is known of goes to the old owner, and is recorded if it is TCP, to be counted;
 * - a packet that goes elsewhere than to the owner stamps the bucket, so that user space sees when
 *   the transition has become idle and can end;
 * - if the old owner died, the bucket stays in transition with the owner in its place.
 * A record counts only if it is not older than the transition.
 *
 * Not done: reassembly, tunnels, protocols whose ports the kernel does not hash, IPv4 options and
 * IPv6 hop-by-hop options (left as they are, RFC 7126 and RFC 8200 §4.3), source addresses checked
 * against routes (rp_filter), the firewall's forward chain.
 *
 * - RFC 791, 792, 1812 (IPv4, ICMP, forwarding), 1624 (checksum), 8200, 4443 (IPv6, ICMPv6)
 * - RFC 9293 (TCP), 768 (UDP), 9000, 9369 (QUIC), IEEE 802.1Q
 */
#include "packet.h"

/* Variants for `make bench BENCH=dataplane`, never shipped; so are VARY and ASK_FIB, below. */
#ifndef TRACK_EVERY_FLOW
#define TRACK_EVERY_FLOW 0
#endif

#define TICK_SHIFT 24

static __always_inline struct hop *hop_at(__u32 index)
{
	return bpf_map_lookup_elem(&hops, &index);
}

static __always_inline int alive(__u32 index)
{
	struct hop *hop = hop_at(index);

	return hop && hop->flags & HOP_ALIVE;
}

static __always_inline void record(__u64 key, __u16 hop, __u16 kind, __u32 now)
{
	struct record new = { hop, kind, now, now };

	add_total(bpf_map_update_elem(&flows, &key, &new, 0) ? TABLE_FULL : TRACKED);
}

/* The next hop of a packet whose bucket is in transition. */
static __noinline __u32 in_transition(struct bucket *b, struct flow *flow, __u64 hash, __u32 owners)
{
	__u32 owner = owners & 0xffff, old = owners >> 16, hop;
	__u32 now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	__u8 kind = flow->kind, tcp = flow->protocol == TCP && !flow->fragment;
	struct record *known = bpf_map_lookup_elem(&flows, &hash);

	if (known && (__s32)(known->recorded - b->since) < 0)
		known = 0;
	if (known && !alive(known->hop)) {
		add_total(DEAD_HOP);
		known = 0;
	}
	/* A SYN after data is another connection with the same ports. */
	if (known && tcp && kind == OPENING && known->kind != OPENING)
		known = 0;
	if (known) {
		hop = known->hop;
		if (kind != ERROR && known->seen != now)
			known->seen = now;
		if (tcp && kind == MIDFLOW && known->kind == OPENING)
			known->kind = MIDFLOW;
	} else if (kind == OPENING) {
		hop = owner;
		add_total(MOVED);
		record(hash, hop, OPENING, now);
	} else {
		hop = alive(old) ? old : owner;
		if (kind == MIDFLOW) {
			add_total(UNKNOWN);
			if (tcp)
				record(hash, hop, MIDFLOW, now);
		}
	}
	if (hop != owner && b->stamp != now)
		b->stamp = now;
	return hop;
}

/* The index of a flow's next hop, or 0. Not static: the verifier walks it once, for all callers. */
__noinline __u32 next_hop(struct flow *flow, __u32 first)
{
	__u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	if (!flow || !set)
		return 0;
	__u64 hash = flow_hash(flow, &set->begun[flow->protocol]), low = multipath_hash(hash);
	__u32 index = first + low - (low * set->reciprocal >> set->shift) * set->buckets;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &index);
	if (!bucket)
		return 0;
	__u32 owners = *(volatile __u32 *)&bucket->owners;
	if (TRACK_EVERY_FLOW)
		owners = (owners & 0xffff) * 0x10001;
	if (unlikely(owners >> 16))
		return in_transition(bucket, flow, hash, owners);
	return owners & 0xffff;
}

/* Is this frame for a link and an address of ours? tc has asked the kernel for untagged ones. */
static __always_inline int for_us(struct frame *f)
{
	struct link_key key = { f->ifindex, f->vlan, f->inner };
	struct ethernet *ethernet = f->data;
	struct link *link;

	if (likely(!f->check_mac && !f->vlan && !f->inner))
		return FORWARD;
	link = bpf_map_lookup_elem(&links, &key);
	if (!link)
		return VLAN;
	for (int i = 0; i < 3; i++)
		if (ethernet->mac[i] != link->mac[i])
			return NOT_FOR_US;
	return FORWARD;
}

/* Frame to next hop: the whole decision. FORWARD, or the reason to pass. */
static __always_inline int choose(struct frame *f, struct packet *p, struct hop **out)
{
	struct service *service;
	int reason = NOT_IP;
	__u16 type = read_ethernet(f, p);

	if (type == IPV4)
		reason = read_ipv4(p, f->end, &service);
	else if (type == IPV6)
		reason = read_ipv6(p, f->end, &service);
	if (!reason)
		reason = for_us(f);
	if (reason)
		return reason;
	if (!f->gso && (p->headers > p->length || p->offset + p->length > f->length))
		return BAD_HEADER;

	__u32 index = next_hop(&p->flow, service->first);
	struct hop *hop = hop_at(index);
	if (!index || !hop)
		return NO_OWNER;
	if (!(hop->flags & HOP_RESOLVED))
		return UNRESOLVED;
	if ((f->gso ? p->headers + f->gso : p->length) > hop->mtu)
		return TOO_BIG;		/* the kernel fragments, or answers */
	add_count(&service_counts, service->count, f->length);
	add_count(&hop_counts, index, f->length);
	*out = hop;
	return FORWARD;
}

/* One hop less, by the same sum in the checksum (RFC 1624), and the MACs of the next one. */
static __always_inline void rewrite(void *data, void *at, struct packet *p, struct hop *hop)
{
	__u32 *macs = data;

	if (p->flow.ipv4) {
		struct ipv4 *ip = at;
		__u32 check = ip->check + htons(0x0100);

		ip->check = check + (check >= 0xffff);
		ip->ttl--;
	} else
		((struct ipv6 *)at)->hops--;
	for (int i = 0; i < 3; i++)
		macs[i] = hop->macs[i];
}

static __noinline int forward_tc(struct __sk_buff *skb)
{
	struct frame f = {
		.data = (void *)(long)skb->data, .end = (void *)(long)skb->data_end,
		.length = skb->len, .gso = skb->gso_size, .ifindex = skb->ifindex,
	};
	struct packet p = {};
	struct hop *hop;

	if (skb->vlan_present) {
		f.depth = 1;
		f.vlan = skb->vlan_tci & 0xfff;
	}
#ifdef VARY
	VARY(skb, f);
#endif
	int reason = skb->pkt_type && !f.vlan ? NOT_FOR_US : choose(&f, &p, &hop);
	if (reason)
		return reason;
#ifdef ASK_FIB
	ASK_FIB(skb, p, hop);
#endif
	if (unlikely(f.depth || hop->vlan)) {
		for (__u32 i = 0; i < 2 && i < f.depth; i++)
			bpf_skb_vlan_pop(skb);
		if (hop->vlan)
			bpf_skb_vlan_push(skb, VLAN_C, hop->vlan);
		f.data = (void *)(long)skb->data;
		f.end = (void *)(long)skb->data_end;
		p.ip = f.data + sizeof(struct ethernet);
		if (p.ip + sizeof(struct ipv4) > f.end)
			return VLAN;	/* never: it was there before */
	}
	rewrite(f.data, p.ip, &p, hop);
	if (!p.flow.ipv4)
		bpf_csum_update(skb, ~(__u32)htons(1));	/* where the card has summed the packet */
	bpf_redirect(hop->ifindex, 0);
	return FORWARD;
}

/* tc ingress. Others in the chain, and then the kernel, get what is passed. */
SEC("tc")
int samepath_tc(struct __sk_buff *skb)
{
	int reason = forward_tc(skb);

	/* A card may leave the headers outside of what can be read at once. */
	if (unlikely(reason == TRUNCATED) &&
	    !bpf_skb_pull_data(skb, skb->len < 256 ? skb->len : 256))
		reason = forward_tc(skb);
	if (likely(reason == FORWARD))
		return TC_ACT_REDIRECT;
	add_total(reason);
	return TC_ACT_UNSPEC;
}

static __always_inline int forward_xdp(struct xdp_md *context)
{
	struct frame f = {
		.data = (void *)(long)context->data, .end = (void *)(long)context->data_end,
		.length = bpf_xdp_get_buff_len(context),
		.ifindex = context->ingress_ifindex, .check_mac = 1,
	};
	struct packet p = {};
	struct hop *hop;
	int reason = choose(&f, &p, &hop);

	if (reason)
		return reason;
	if (unlikely(f.depth || hop->vlan)) {
		int tag = hop->vlan ? sizeof(struct tag) : 0;

		if (bpf_xdp_adjust_head(context, (int)(f.depth * sizeof(struct tag)) - tag))
			return VLAN;
		f.data = (void *)(long)context->data;
		f.end = (void *)(long)context->data_end;
		p.ip = f.data + sizeof(struct ethernet) + tag;
		if (p.ip + sizeof(struct ipv4) > f.end)
			return VLAN;	/* never: it was there before */
		__u16 *type = f.data + sizeof(struct ethernet) - sizeof(*type);
		if (tag) {
			type[0] = VLAN_C;
			type[1] = htons(hop->vlan);
			type += 2;
		}
		*type = p.flow.ipv4 ? IPV4 : IPV6;
	}
	rewrite(f.data, p.ip, &p, hop);
	bpf_redirect(hop->ifindex, 0);
	return FORWARD;
}

/* In the card's driver, before there is an skb. Needs a card that can redirect. */
SEC("xdp")
int samepath_xdp(struct xdp_md *context)
{
	int reason = forward_xdp(context);

	if (likely(reason == FORWARD))
		return XDP_REDIRECT;
	add_total(reason);
	return XDP_PASS;
}

/* No helper that is used is for GPL programs only. */
#ifndef LICENSE
#define LICENSE "Apache-2.0"
#endif
char _license[] SEC("license") = LICENSE;
