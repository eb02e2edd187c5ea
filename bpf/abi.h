/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ABI_H
#define LIMPET_ABI_H

/* Every struct, enum and limit that user space also sees; nothing else.
 *
 * src/limpet/datapath/abi.py is generated from the BTF of this file, and the
 * help texts of the counters from its comments. A counter's comment ends in
 * "normal", "watch" or "alarm": what an operator should feel on seeing it move.
 * Formats with bits are drawn in docs/formats/.
 */

#include <linux/types.h>

/* Limits. Plain enums, so that they reach BTF and so Python. */
enum limit {
	LIMIT_SLOTS = 65536,         /* slots of a slot table */
	LIMIT_BACKENDS = 4096,       /* rows of `backends`; row 0 means "none" */
	LIMIT_VIPS = 1024,           /* rows of `vips`; row 0 means "none" */
	LIMIT_POOLS = 1024,          /* rows of `pools` */
	LIMIT_VIP_ADDRESSES = 4096,  /* places of one half of `vip_addresses` */
	LIMIT_VIP_SERVICES = 8192,   /* places of one half of `vip_services` */
	LIMIT_VIP_PROBES = 16,       /* places a lookup tries in either of them */
	LIMIT_FLOW_WAYS = 8,         /* entries of a bucket of the connection table */
	LIMIT_SESSION_WAYS = 4,      /* entries of a bucket of the session table */
	LIMIT_CANDIDATES = 128,      /* members of a pool among which the freest is looked for */
	LIMIT_PROXIES = 16384,       /* prefixes of known mega-proxies */
	LIMIT_RESETS = 65536,        /* bytes of the ring that asks for TCP resets */
	LIMIT_NEWS = 4194304,        /* bytes of the ring that tells of new exceptions */
	LIMIT_HELD = 4194304,        /* bytes of the ring of packets that wait for an answer */
	LIMIT_HELD_FRAME = 1984,     /* bytes of such a packet, link header included */
	LIMIT_ASKERS = 4096,         /* places of the limit of queries per client */
	LIMIT_EXTENSION_HEADERS = 6, /* IPv6 extension headers walked */
	LIMIT_HEADERS = 2048,        /* bytes from the IPv6 header to the transport header */
	LIMIT_VLAN_TAGS = 2,         /* VLAN tags walked */
	LIMIT_AGENT_SOURCES = 256,   /* director prefixes an agent accepts from */
	LIMIT_AGENT_VIPS = 1024,     /* VIP addresses an agent accepts */
	LIMIT_AGENT_EXITS = 8,       /* PoPs by which an agent may send replies, beside its own */
	LIMIT_AGENT_CLIENTS = 65536, /* clients of other PoPs that an agent knows; then the oldest goes */
	LIMIT_OUTBOUND_MTU = 1280,   /* bytes of an IP packet of the director's own to a backend */
};

/* Raised whenever bytes of a pinned map come to mean something else at the same size: then a director refuses
 * to adopt the maps of another build, instead of misreading them. */
enum layout {
	LAYOUT_VERSION = 3,
};

/* How the director treated a packet: exactly one of these per packet. */
enum verdict {
	VERDICT_CONTINUE = 0, /* not final; counts packets that fell through: alarm */
	/* XDP_PASS: not ours. */
	VERDICT_NOT_IP,         /* neither IPv4 nor IPv6: normal */
	VERDICT_NOT_VIP,        /* the destination is no VIP address: normal */
	VERDICT_NO_SERVICE,     /* a VIP address, but no VIP has this protocol and port: watch */
	VERDICT_PASS_MALFORMED, /* broken before it was known to be for a VIP: watch */
	/* Forwarded to a backend. */
	VERDICT_TRANSMIT,   /* sent out of the interface it came from: normal */
	VERDICT_REDIRECT,   /* sent out of another interface, or through the redirect path: normal */
	VERDICT_VIA_KERNEL, /* next hop not known yet, the kernel forwards the packet: watch */
	/* Answered by the director. */
	VERDICT_ECHO_REPLY, /* ICMP echo request to a VIP answered: normal */
	VERDICT_TOO_BIG,    /* would not fit when encapsulated, the sender was told: watch */
	VERDICT_HOP_LIMIT,  /* time to live used up, the sender was told: watch */
	VERDICT_RESET,      /* flow of a backend that is being reset, both ends are sent a TCP RST: watch */
	/* Kept by the director for a moment. */
	VERDICT_HELD, /* flow not known here, the other directors are asked whose it is: watch */
	/* XDP_DROP: ours, and not deliverable. */
	VERDICT_DROP_MALFORMED,       /* a header is cut off or contradicts itself: watch */
	VERDICT_DROP_NO_BACKEND,      /* the slot has no home: no backend is eligible: alarm */
	VERDICT_DROP_UNKNOWN_BACKEND, /* a flow or slot names a backend without a row: alarm */
	VERDICT_DROP_FRAGMENT,        /* later fragment whose first was not seen, where ports are needed: watch */
	VERDICT_DROP_ICMP_TYPE,       /* ICMP to a VIP that is neither echo request nor a handled error: watch */
	VERDICT_DROP_ICMP_QUOTE,      /* ICMP error whose quoted packet is unusable or not a VIP's: watch */
	VERDICT_DROP_ICMP_LIMITED,    /* an ICMP answer was due, but over the rate limit: watch */
	VERDICT_DROP_TOO_BIG,   /* would not fit, and nobody may be told: ICMP error, later fragment: watch */
	VERDICT_DROP_HOP_LIMIT, /* time to live used up, and nobody may be told: the same: watch */
	VERDICT_DROP_NEXT_HOP,  /* backend on the same segment whose MAC is not known yet: alarm */
	VERDICT_DROP_HEADROOM,  /* no room in the frame for the outer header: alarm */
	VERDICT_DROP_RESET,     /* a reset was due, but the ring is full; the next packet asks again: alarm */
	VERDICT_MAX,
};

/* Which rung of the ladder chose the backend of a forwarded packet. */
enum rung {
	RUNG_TABLE = 0,          /* connection table: normal */
	RUNG_LATE,               /* existing flow, idle for too long, whose backend is still remembered: watch */
	RUNG_FRAGMENT,           /* later fragment, follows the first of its datagram: normal */
	RUNG_SESSION_NEW,        /* new flow, backend of its client's live session: normal */
	RUNG_SESSION_EXISTING,   /* existing flow without an entry, backend of its client's live session: watch */
	RUNG_DIRECTORY_NEW,      /* new flow, backend of its client's session as another director told: normal */
	RUNG_DIRECTORY_EXISTING, /* existing flow without an entry, the same: watch */
	RUNG_OWNER,              /* existing flow, backend as the director answered that knows it: watch */
	RUNG_HOME_NEW,           /* new session, home of its slot: normal */
	RUNG_ROUND_ROBIN,        /* new session, whose turn it was: normal */
	RUNG_FREEST,             /* new session, fewest live sessions per weight: normal */
	RUNG_HOME_EXISTING,      /* existing flow without an entry, home of a slot that did not move: watch */
	RUNG_ORPHAN,        /* existing flow that nobody knows, at home or where another director guessed: alarm */
	RUNG_HOME_FRAGMENT, /* later fragment without its first, home of the client's slot: watch */
	RUNG_MAX,
};

/* What happened to the connection table and to the session table. */
enum event {
	EVENT_FLOW_CREATED = 0,  /* entry created: normal */
	EVENT_FLOW_SPILLED,      /* entry created in its second bucket, the first was crowded: normal */
	EVENT_FLOW_EXPIRED,      /* a flow ended by its idle timeout: normal */
	EVENT_FLOW_MOVED,        /* a live flow left its backend, which is down: watch */
	EVENT_EVICTED_EXPIRED,   /* an expired entry made room: normal */
	EVENT_EVICTED_OPENING,   /* a live entry with one packet only made room: watch */
	EVENT_EVICTED_CLOSING,   /* a live entry after FIN or RST made room: watch */
	EVENT_REFUSED_FULL,      /* no entry: both buckets hold live established flows: alarm */
	EVENT_REFUSED_RATE,      /* no entry: over the rate limit of new flows: alarm */
	EVENT_RACE_LOST,         /* another CPU changed the entry first, nothing was written: normal */
	EVENT_STALE_BACKEND,     /* entry or exception of a backend without a row, ignored: watch */
	EVENT_SESSION_CREATED,   /* session began: normal */
	EVENT_SESSION_SPILLED,   /* session began in its second bucket, the first was full: normal */
	EVENT_SESSION_EXPIRED,   /* a session ended by its idle timeout: normal */
	EVENT_SESSION_MOVED,     /* a live session got another backend: it left its own, or was overruled: watch */
	EVENT_SESSION_EVICTED,   /* a session without an established flow made room: watch */
	EVENT_SESSION_FULL,      /* no session: both buckets hold live sessions, its flows go by policy: alarm */
	EVENT_CLIENT_SPLIT,      /* a client became a mega-proxy, new flows of it are split by port range: watch */
	EVENT_NEWS_LOST,         /* an exception was not told at once, the ring was full; a scan finds it: watch */
	EVENT_SESSION_OVERRULED, /* a session went on elsewhere meanwhile, and follows what was told: normal */
	EVENT_ORPHAN_UNKNOWN,    /* orphan: no director knows the flow: watch */
	EVENT_ORPHAN_RATE,       /* orphan: over the rate limit of queries: alarm */
	EVENT_ORPHAN_FULL,       /* orphan: the ring of held packets was full: alarm */
	EVENT_ORPHAN_TOO_LONG,   /* orphan: the packet is too long to be held: watch */
	EVENT_ORPHAN_BACKEND,    /* orphan: it was told to be at a backend that has no row here: alarm */
	EVENT_MAX,
};

/* What the agent did with a packet. */
enum agent_verdict {
	AGENT_PASS = 0,       /* not a limpet packet: normal */
	AGENT_DECAPSULATED,   /* outer header removed, handed to the kernel: normal */
	AGENT_DROP_SOURCE,    /* encapsulated for a VIP by somebody who is no director: alarm */
	AGENT_DROP_MALFORMED, /* from a director, but a header is cut off or contradicts itself: watch */
	AGENT_DROP_ECN, /* congestion was marked on the way, and the session cannot be told (RFC 6040): watch */
	AGENT_DROP_HEADROOM, /* could not remove the outer header: alarm */
	AGENT_MSS_CLAMPED,   /* MSS option of an outgoing SYN lowered, beside the packets above: normal */
	AGENT_REPLY_DIRECT,  /* reply sent by this machine's own routes: normal */
	AGENT_REPLY_EXIT,    /* reply sent to the exit of the PoP that the client's packets come in by: normal */
	AGENT_REPLY_MOVED,   /* of these, by another PoP than the client last used, now silent: watch */
	AGENT_DROP_REPLY_ROUTE,   /* reply to a client or an exit to which there is no route: alarm */
	AGENT_DROP_REPLY_TOO_BIG, /* reply longer than what the interface carries: alarm */
	AGENT_DROP_REPLY_OTHER,   /* reply that could not be read or encapsulated: alarm */
	AGENT_MAX,
};

/* What became of a packet of the director's own machine on its way to a backend. */
enum outbound {
	OUTBOUND_PASS = 0,       /* not marked for a backend: normal */
	OUTBOUND_SENT,           /* encapsulated and sent to the backend's next hop: normal */
	OUTBOUND_VIA_KERNEL,     /* encapsulated, its next hop is not known yet, the kernel forwards it: watch */
	OUTBOUND_DROP_MALFORMED, /* marked for a backend, but not an IP packet: watch */
	OUTBOUND_DROP_UNKNOWN_BACKEND, /* marked for a backend without a row: watch */
	OUTBOUND_DROP_TOO_BIG,         /* longer than the path to the backend carries: watch */
	OUTBOUND_DROP_NEXT_HOP,        /* MAC of a backend on the same segment is not known yet: watch */
	OUTBOUND_DROP_HEADROOM,        /* the kernel made no room for the outer header: alarm */
	OUTBOUND_MAX,
};

enum encapsulation {
	ENCAPSULATION_NONE = 0, /* the row is empty */
	ENCAPSULATION_IPIP4,    /* outer IPv4 header */
	ENCAPSULATION_IPIP6,    /* outer IPv6 header */
	ENCAPSULATION_L2,       /* MAC rewrite only */
};

enum affinity {
	AFFINITY_CLIENT = 0,   /* client address under the VIP's mask */
	AFFINITY_FLOW,         /* the whole 5-tuple; the flow itself is the session */
	AFFINITY_CLIENT_PORTS, /* client address under the VIP's mask, and range of its ports */
};

/* How the backend of a new session is chosen. */
enum policy {
	POLICY_HASH = 0,       /* home of the slot */
	POLICY_ROUND_ROBIN,    /* the next of `turns`, weighted and smooth */
	POLICY_LEAST_SESSIONS, /* the freest: fewest live sessions per weight */
};

/* A VIP address: one row of an open-addressing hash table, linear probing. */
struct vip_address {
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u32 id;         /* from 1; 0 ends a probe sequence */
	__u32 services;   /* bit 1 << enum service: there are rows of that kind */
};

enum service {
	SERVICE_EMPTY = 0, /* ends a probe sequence */
	SERVICE_PORT,      /* one port */
	SERVICE_ALL_PORTS, /* every port without a row of its own */
	SERVICE_FRAGMENT,  /* later fragments without a known first: one pool serves the protocol */
};

/* What is served at a VIP address. The first six bytes are the key. */
struct vip_service {
	__u16 address_id;
	__u16 port; /* host order; 0 unless SERVICE_PORT */
	__u8 protocol;
	__u8 service; /* enum service */
	__u16 vip;    /* row of `vips` */
};

struct vip {
	__u64 affinity_mask[2]; /* host order words of a mask over the client's 16 byte address */
	__u32 split_flows;      /* open flows with which a client becomes a mega-proxy; 0: never */
	__u16 pool;             /* row of `pools` */
	__u8 affinity;          /* enum affinity */
	__u8 protocol;
	__u8 family;        /* 4 or 6; for people who read flows, also after the VIP is gone */
	__u8 range_shift;   /* client port >> range_shift is its range, for AFFINITY_CLIENT_PORTS */
	__u8 split_shift;   /* the same for mega-proxies */
	__u8 looks_at_list; /* 1: clients under a prefix of `proxies` are mega-proxies at once */
	__u8 reserved[4];
};

/* Idle ticks after which an entry has expired, by VIP and enum life. VIP 0 stands for fragments. */
struct idle_limits {
	__u32 ticks[LIMIT_VIPS][8];
};

struct pool {
	__u32 table;      /* place in `slot_tables`, `turns` and `members` */
	__u32 generation; /* of the tables there */
};

/* What sessions of a pool do with one of its backends, bits of member_table.standing. */
enum standing {
	STANDING_LEFT_BY_SESSIONS = 1, /* new flows of its sessions go elsewhere: down, or draining by flows */
	STANDING_LEFT_BY_FLOWS = 2,    /* its flows go elsewhere as well: down, on-down rehash */
	STANDING_RESET = 4,            /* its TCP flows are reset: at a deadline, or on-down reset */
};

struct backend {
	__u8 address[16];   /* outer destination, IPv4 as ::ffff:a.b.c.d */
	__u8 next_hop[6];   /* destination MAC; all zero: not known yet */
	__u8 source_mac[6]; /* of the egress interface */
	__u32 ifindex;      /* egress interface */
	__u16 mtu;          /* largest IP packet, outer header included, that the egress carries */
	__u8 encapsulation; /* enum encapsulation */
	__u8 has_standing;  /* 1: in some pool its standing is not 0 */
	__u8 reserved[28];
};

/* Bits of slot_table.home. A director that stands alone sets the marks nowhere. */
enum slot {
	SLOT_BACKEND = 0x0fff, /* mask of the row of `backends` */
	SLOT_TELL = 0x4000,    /* other directors would look elsewhere: what begins here is told to them */
	SLOT_UNSURE = 0x8000,  /* a flow without an entry may belong elsewhere: ask the other directors */
};

struct slot_table {
	__u16 home[LIMIT_SLOTS]; /* see enum slot; backend 0: none is eligible */
};

/* The order of round robin: every backend as often as its weight says, spread evenly. */
struct turn_table {
	__u16 backend[LIMIT_SLOTS]; /* row of `backends`; 0: no backend is eligible */
};

struct member {
	__u16 backend; /* row of `backends` */
	__u16 weight;  /* for people; 0 is no member */
	__u32 inverse; /* 2^16 * largest weight of the pool / weight: what one session more weighs */
};

/* The eligible backends of a pool, and how they are chosen. */
struct member_table {
	__u16 count;
	__u8 policy;   /* enum policy, for a client that is not known */
	__u8 reassign; /* enum policy, for a client whose session has expired */
	__u32 reserved;
	struct member members[LIMIT_BACKENDS];
	__u8 standing[LIMIT_BACKENDS]; /* bits of enum standing, by row of `backends` */
};

/* Live sessions of each backend, by its row. Written by all CPUs at once: a choice must see the one before. */
struct loads {
	__u32 sessions[LIMIT_BACKENDS];
};

/* Life of an entry of the connection table, bits FLOW_LIFE_* of its word. */
enum life {
	LIFE_EMPTY = 0,
	LIFE_OPENING,     /* one packet seen */
	LIFE_ESTABLISHED, /* TCP: a second packet of the client's came */
	LIFE_DATAGRAM,    /* UDP: the same */
	LIFE_CLOSING,     /* FIN or RST seen */
	LIFE_FRAGMENT,    /* not a flow: a datagram whose first fragment was seen */
	LIFE_LATE,        /* expired while established: remembered as long as nobody needs the room */
	LIFE_SESSION,     /* no entry has it: row of idle_limits for sessions */
	LIFE_MAX,
};

/* Bits of flow_entry.word. */
enum flow_word {
	FLOW_BACKEND_SHIFT = 0,
	FLOW_BACKEND_BITS = 12,
	FLOW_VIP_SHIFT = 12, /* 0 for LIFE_FRAGMENT */
	FLOW_VIP_BITS = 10,
	FLOW_LIFE_SHIFT = 22,
	FLOW_LIFE_BITS = 3,
	FLOW_SPILLED_SHIFT = 25, /* on the first entry of a half: a flow that prefers it lives elsewhere */
	FLOW_SPILLED_BITS = 1,
	FLOW_SESSION_SHIFT = 26, /* where the flow's session is, bits of enum flow_session */
	FLOW_SESSION_BITS = 5,
	FLOW_SEEN_SHIFT = 31, /* tick of the last packet, refreshed at most once a FLOW_REFRESH_TICKS */
	FLOW_SEEN_BITS = 22,
	FLOW_CHECK_SHIFT = 53, /* part of the hash: tells a torn entry */
	FLOW_CHECK_BITS = 11,
	FLOW_REFRESH_TICKS = 2,
	FLOW_SKEW_TICKS = 8, /* how far one CPU's tick may be ahead of another's */
};

/* The flow's place among sessions, FLOW_SESSION of its word. With FLOW_IN_SESSION, the lower bits say in which of
 * the buckets that the session's key hashes to, and in which way of it: so traffic refreshes its session without
 * reading it. */
enum flow_session {
	FLOW_ALONE = 0,          /* no session: it could not be had, or belongs to another backend by now */
	FLOW_IS_SESSION = 1,     /* affinity flow */
	FLOW_ORPHAN = 2,         /* beside either: nobody knew the flow, its backend is a guess */
	FLOW_SESSION_WAY = 3,    /* mask of the way */
	FLOW_SESSION_SECOND = 4, /* second bucket */
	FLOW_SESSION_RANGE = 8,  /* of a range of a mega-proxy's ports */
	FLOW_IN_SESSION = 16,
};

struct flow_entry {
	__u64 id;   /* IPv4: client address, client port, VIP port; IPv6: keyed digest of them */
	__u64 word; /* see enum flow_word; published by compare-and-exchange */
};

struct flow_bucket {
	struct flow_entry entries[LIMIT_FLOW_WAYS];
};

/* The client of an IPv6 entry: for people, and to find the session when the flow ends. */
struct flow_client {
	__u8 address[16];
	__u16 client_port;
	__u16 vip_port;
	__u32 reserved;
};

/* Life of a session, bits SESSION_LIFE_* of its word. */
enum session_life {
	SESSION_EMPTY = 0,
	SESSION_BUSY,    /* being written by another CPU */
	SESSION_OPENING, /* no flow of it was ever established: makes room if it must */
	SESSION_LIVE,    /* never makes room */
	SESSION_PAST,    /* expired: only remembered, so that `reassign` knows who returns */
};

/* Bits of session.word. */
enum session_word {
	SESSION_BACKEND_SHIFT = 0,
	SESSION_BACKEND_BITS = 12,
	SESSION_VIP_SHIFT = 12,
	SESSION_VIP_BITS = 10,
	SESSION_LIFE_SHIFT = 22,
	SESSION_LIFE_BITS = 3,
	SESSION_SPILLED_SHIFT =
		25, /* on the first entry of a bucket: a session of it lives in its second bucket */
	SESSION_SPILLED_BITS = 1,
	SESSION_SPLIT_SHIFT = 26, /* ranges of this client's ports have sessions of their own */
	SESSION_SPLIT_BITS = 1,
	SESSION_RANGE_SHIFT = 27, /* 0: the whole client, else 1 + range of its ports */
	SESSION_RANGE_BITS = 17,
	SESSION_SINCE_SHIFT = 44, /* tick >> SESSION_SINCE_UNIT when it began */
	SESSION_SINCE_BITS = 20,
	SESSION_SINCE_UNIT = 8,
	SESSION_SHORT_TICKS = 1024, /* idle limit up to which every refresh of a flow refreshes its session, */
	SESSION_REFRESHES = 64,     /* and times in a longer one that a flow does so */
	SESSION_SWEEP_TICKS = 16,   /* longer than the time between two sweeps */
};

/* A session of a VIP whose affinity is not AFFINITY_FLOW. */
struct session {
	__u64 client[2]; /* host order words of the address under the VIP's mask */
	__u64 word;      /* see enum session_word; published by compare-and-exchange */
	__u32 guard;     /* on the first entry of a bucket: 1 while a session that prefers it begins */
	__u32 flows;     /* open flows: established, not closing; of a mega-proxy also those of its ranges */
};

struct session_bucket {
	struct session entries[LIMIT_SESSION_WAYS];
};

/* Tick of the last packet of any flow of a session, by way of the bucket. A flow writes it SESSION_REFRESHES times
 * in a long idle limit; what it leaves out the sweeper makes good before the session would expire. Apart from the
 * sessions, so that what traffic writes to is small enough to stay in a cache. */
struct session_times {
	__u32 seen[LIMIT_SESSION_WAYS];
};

/* What the sweeper is asked, and what it answers. */
struct sweep {
	__u32 first;     /* bucket */
	__u32 count;     /* buckets */
	__u32 expired;   /* answer: entries that ended */
	__u32 forgotten; /* answer: entries that were remembered for too long */
};

/* A TCP packet of a flow that is being reset: all that it takes to write to both ends. */
struct reset {
	__u8 client[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 vip_address[16];
	__u32 sequence;     /* of the client's packet, which was not forwarded: the backend still waits for it */
	__u32 acknowledged; /* by it: what the client waits for */
	__u16 client_port;
	__u16 vip_port;
	__u16 backend;
	__u8 family;
	__u8 reserved;
};

enum exception_kind {
	EXCEPTION_SESSION = 1, /* of a client, or of a range of its ports */
	EXCEPTION_FLOW,        /* of one flow: affinity flow, or a flow that its session has left behind */
};

enum exception_flag {
	EXCEPTION_ASK = 1,    /* flows of this session may be elsewhere: ask whose an existing one is */
	EXCEPTION_SPLIT = 2,  /* the client is a mega-proxy: ranges of its ports have sessions of their own */
	EXCEPTION_ORPHAN = 4, /* of a flow that was asked for: nobody knows it, its home gets it */
	EXCEPTION_ANSWER =
		8, /* of a flow that was asked for: its owner answered; with ORPHAN: who guessed before */
};

/* Name of an exception: key of the map `directory`. */
struct exception_key {
	__u64 client[2]; /* host order words; of a session under the VIP's mask */
	__u32 range;     /* session: 0 or 1 + range of ports, as in its word; flow: client port << 16 | VIP port */
	__u16 vip;
	__u16 kind; /* enum exception_kind */
};

/* Where an exception is. */
struct exception {
	__u32 since; /* tick of this machine at which it began or was last moved */
	__u32 until; /* and after which it is not used */
	__u16 backend;
	__u8 flags; /* bits of enum exception_flag */
	__u8 reserved[5];
};

/* A session or flow that began, moved or was split here, where other directors would not look for it. */
struct news {
	struct exception_key key;
	__u32 tick;
	__u16 backend;
	__u8 flags; /* bits of enum exception_flag */
	__u8 reserved;
};

/* A packet that waits until another director has said whose its flow is; with its link header, as it came. */
struct held {
	__u64 client[2]; /* host order words of the 16 byte forms */
	__u64 vip_address[2];
	__u32 ifindex; /* that it came in by */
	__u32 tick;
	__u16 client_port;
	__u16 vip_port;
	__u16 vip;
	__u16 length; /* of the frame */
	__u8 protocol;
	__u8 family;
	__u8 is_error; /* an ICMP error about a packet to the client */
	__u8 reserved[13];
	__u8 frame[LIMIT_HELD_FRAME];
};

/* Switched as one word: which half of the VIP hash tables is live. */
struct control {
	__u16 vip_half; /* 0 or 1 */
	__u16 layout;   /* LAYOUT_VERSION of who wrote it, 0 before the first time */
	__u32 vip_seed; /* of the hash of both tables in this half */
};

struct vip_stats {
	__u64 packets;  /* forwarded to a backend */
	__u64 bytes;    /* of these, from the IP header on, before encapsulation */
	__u64 flows;    /* new flows */
	__u64 dropped;  /* packets for this VIP that were dropped */
	__u64 sessions; /* new sessions */
};

struct backend_stats {
	__u64 packets;
	__u64 bytes;
	__u64 flows;
	__u64 sessions;
};

struct counters {
	__u64 verdicts[VERDICT_MAX];
	__u64 rungs[RUNG_MAX];
	__u64 events[EVENT_MAX];
};

struct agent_counters {
	__u64 verdicts[AGENT_MAX];
};

/* Token bucket of one CPU. Written by that CPU only. */
struct rate {
	__u64 refilled; /* jiffies of the last refill */
	__u64 tokens;
};

/* Switches of the director. Constants while a program runs: a change is a new program. */
struct settings {
	__u64 slot_key[2];  /* hash of the affinity key; the same on every director */
	__u64 flow_key[2];  /* place in the connection table; secret of this director */
	__u32 bucket_mask;  /* buckets of the connection table - 1 */
	__u32 tick_shift;   /* a tick is 2^tick_shift jiffies */
	__u32 session_mask; /* buckets of the session table - 1 */
	__u32 reserved0;
	__u32 flows_per_jiffy_16; /* new entries per jiffy and CPU, times 16; 0: no limit */
	__u32 flows_burst;        /* tokens a CPU may save up */
	__u32 icmp_per_jiffy_16;  /* ICMP answers, the same; 0: no limit */
	__u32 icmp_burst;
	__u8 outer_source4[4];  /* upper 16 bits of the outer IPv4 source; the rest is entropy */
	__u8 outer_source6[16]; /* upper 96 bits of the outer IPv6 source; the rest is entropy */
	__u8 icmp_source4[4];   /* source of ICMP errors; all zero: the VIP */
	__u8 icmp_source6[16];
	__u32 queries_per_jiffy_16; /* packets that are held, as flows_per_jiffy_16 */
	__u32 queries_burst;
	__u32 client_queries_burst; /* of one client, who may have as many in a second */
	__u8 redirect_always;       /* never XDP_TX: for veth without an XDP program on the peer */
	__u8 is_member;             /* of a cluster: there are other directors to tell and to ask */
	__u8 hash_only;             /* every packet goes by the hash: for comparisons */
	__u8 reserved;
};

/* A prefix of clients behind which many people are: key of a longest-prefix trie. */
struct proxy {
	__u32 bits;       /* of the 16 byte form: IPv4 prefixes are 96 longer */
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* A prefix of outer sources that an agent accepts: key of a longest-prefix trie. */
struct agent_source {
	__u32 bits;       /* of the 16 byte form: IPv4 prefixes are 96 longer */
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* Switches of the agent. Constants while a program runs. */
struct agent_settings {
	__u64 silence; /* jiffies without a client's packet, after which a PoP counts as silent */
	__u16 mss4;    /* largest MSS announced over IPv4, 0: leave it */
	__u16 mss6;
	__u8 exits;   /* rows of `agent_exits`; 0: replies leave directly, and nothing is noted for them */
	__u8 is_exit; /* it takes replies of backends, not packets of clients */
	__u8 reserved[2];
};

/* Where replies leave that go out by another PoP. */
struct agent_exit {
	__u8 address[16]; /* outer destination; IPv4 as ::ffff:a.b.c.d */
	__u8 source[16];  /* outer source, of this machine */
};

/* A client of a VIP, whose packets come in by another PoP: key of the map `agent_clients`. */
struct agent_client {
	__u64 address[2]; /* in the byte order of the machine */
	__u32 vip;        /* its place in the configuration */
	__u32 reserved;
};

/* Bits of a client's way. */
enum agent_way {
	AGENT_WAY_EXIT = 255,     /* mask: 0: own PoP, else 1 + the row of `agent_exits` */
	AGENT_WAY_DIRECTOR = 256, /* a director's own checks: they say nothing of what the PoP announces */
};

/* When a client's packet for a VIP last came in, by own PoP (0) and exits (from 1); jiffies, 0: never. */
struct agent_heard {
	__u64 at[LIMIT_AGENT_EXITS + 1];
};

struct outbound_counters {
	__u64 outcomes[OUTBOUND_MAX];
};

/* Switches of the program for the director's own packets. Constants while it runs. */
struct outbound_settings {
	__u32 mark;            /* of packets to a backend; the low 12 bits are its row */
	__u8 outer_source4[4]; /* as in struct settings */
	__u8 outer_source6[16];
};

#endif
