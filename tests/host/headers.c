/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The headers of bpf/ that call no helpers, as a library: what tests/host calls through ctypes.
 *
 * Frames are put right before a page that nobody may touch, so that reading one byte too many ends the
 * process. That place is below 4 GiB, because struct xdp_md holds addresses of 32 bits.
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "affinity.h"
#include "csum.h"
#include "decap.h"
#include "flow.h"
#include "hash.h"
#include "parse.h"
#include "room.h"
#include "session.h"

#define PAGE   4096UL
#define FRAMES (16 * PAGE)

static unsigned char *frames_end;

uint64_t host_mix(uint64_t x)
{
	return hash_mix(x);
}

uint64_t host_pair(uint64_t high, uint64_t low, uint64_t key0, uint64_t key1)
{
	return hash_pair(high, low, key0, key1);
}

uint16_t host_fold(uint64_t sum)
{
	return csum_fold(sum);
}

uint16_t host_replace(uint16_t check, uint16_t from, uint16_t to)
{
	return csum_replace(check, from, to);
}

int host_ecn_join(uint8_t outer, uint8_t inner)
{
	return ecn_join(outer, inner);
}

/* The settings are constants of a program; before it is loaded, the loader writes them. So does this. */
static struct settings *settings_open(void)
{
	struct settings *writable = (struct settings *)&settings;
	uintptr_t start = (uintptr_t)writable & ~(PAGE - 1);
	uintptr_t end = ((uintptr_t)(writable + 1) + PAGE - 1) & ~(PAGE - 1);

	if (mprotect((void *)start, end - start, PROT_READ | PROT_WRITE))
		return 0;
	opaque(writable); /* the compiler knows that nobody writes a constant, and leaves the stores out */
	return writable;
}

int host_slot_key(uint64_t key0, uint64_t key1)
{
	struct settings *writable = settings_open();

	if (!writable)
		return -1;
	writable->slot_key[0] = key0;
	writable->slot_key[1] = key1;
	return 0;
}

int host_flow_key(uint64_t key0, uint64_t key1, uint32_t session_mask)
{
	struct settings *writable = settings_open();

	if (!writable)
		return -1;
	writable->flow_key[0] = key0;
	writable->flow_key[1] = key1;
	writable->session_mask = session_mask;
	return 0;
}

/* Who makes room in a bucket with these words: its way, rank, and how many entries are free. `ticks`: idle limits
 * by life. */
void host_victim(const uint64_t words[LIMIT_FLOW_WAYS], const uint32_t ticks[1 << FLOW_LIFE_BITS], uint64_t hash,
		 uint32_t now, uint32_t out[3])
{
	static struct idle_limits limits;
	struct flow flow = {.hash = hash, .now = now};
	struct flow_bucket bucket = {};
	struct victim victim;

	for (int way = 0; way < LIMIT_FLOW_WAYS; way++)
		bucket.entries[way].word = words[way];
	memcpy(limits.ticks[0], ticks, sizeof(limits.ticks[0]));
	victim_choose(&victim, &bucket, &flow, &limits, LIMIT_FLOW_WAYS);
	out[0] = (victim.score ^ flow_half(&flow)) & (LIMIT_FLOW_WAYS - 1);
	out[1] = victim_rank_of(&victim);
	out[2] = victim.free;
}

uint32_t host_age(uint64_t word, uint32_t now)
{
	return flow_age(word, now);
}

/* Whether a session of VIP 0 has expired; `ticks`: idle limits by life. */
int host_session_has_expired(uint64_t word, uint32_t seen, uint32_t now, const uint32_t ticks[1 << FLOW_LIFE_BITS])
{
	static struct idle_limits limits;

	memcpy(limits.ticks[0], ticks, sizeof(limits.ticks[0]));
	return session_has_expired(word, seen, now, &limits);
}

/* The two buckets of a session. `words`: affinity mask, client, each high and low. */
void host_session_places(const uint64_t words[4], uint32_t vip_id, uint32_t range, uint32_t out[2])
{
	const struct vip vip = {.affinity_mask = {words[0], words[1]}};
	const uint64_t client[2] = {words[2], words[3]};
	struct session_key key;

	session_name(&key, &vip, vip_id, (const __u64 *)client, range);
	out[0] = key.first;
	out[1] = key.second;
}

/* Slot of a packet, and the range of its session. `words`: affinity mask, client, VIP address, each high and low;
 * `shifts`: of client+ports and of mega-proxies. */
uint32_t host_slot(const uint64_t words[6], uint8_t affinity, uint8_t protocol, const uint16_t ports[2],
		   const uint8_t shifts[2], int is_split)
{
	struct vip vip = {
		.affinity_mask = {words[0], words[1]},
		.affinity = affinity,
		.range_shift = shifts[0],
		.split_shift = shifts[1],
	};
	struct packet packet = {
		.client = {words[2], words[3]},
		.vip_address = {words[4], words[5]},
		.client_port = ports[0],
		.vip_port = ports[1],
		.protocol = protocol,
	};
	uint32_t range = is_split ? affinity_split_range(&vip, ports[0]) : affinity_range(&vip, ports[0]);

	return affinity_slot(&vip, &packet, range);
}

/* Make room for frames with a forbidden page behind; 0 if it worked. */
int host_open(void)
{
	for (uintptr_t at = 0x10000000; at < 0xf0000000 && !frames_end; at += 0x1000000) {
		void *room = mmap((void *)at, FRAMES + PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (room == MAP_FAILED)
			continue;
		if (mprotect((char *)room + FRAMES, PAGE, PROT_NONE))
			return -1;
		frames_end = (unsigned char *)room + FRAMES;
	}
	return frames_end ? 0 : -1;
}

/* Reads one byte behind a frame, which must end the process: shows that the fuzzer would see it. */
int host_read_behind(void)
{
	return *(volatile unsigned char *)frames_end;
}

/* Overflows a signed number, which must end the process as well. */
int host_overflow(int x)
{
	return x + 0x7fffffff;
}

static void packet_spread(const struct packet *p, uint64_t out[20])
{
	const uint64_t fields[20] = {
		p->ethertype, p->tag_count, p->tags[0],       p->tags[1],        p->link_length,
		p->family,    p->client[0], p->client[1],     p->vip_address[0], p->vip_address[1],
		p->protocol,  p->kind,      p->client_port,   p->vip_port,       p->is_fragment,
		p->datagram,  p->length,    p->header_length, p->hop_limit,      p->traffic_class,
	};

	memcpy(out, fields, sizeof(fields));
}

/* Parse a frame as the director does once it knows that the destination is a VIP; a verdict. `slack` bytes
 * lie between its end and the forbidden page. */
int host_parse(const unsigned char *frame, uint32_t length, uint32_t slack, uint64_t out[20])
{
	unsigned char *end = frames_end - slack, *start = end - length;
	struct xdp_md ctx = {
		.data = (uint32_t)(uintptr_t)start,
		.data_end = (uint32_t)(uintptr_t)end,
	};
	struct cursor c = cursor_open(&ctx);
	struct packet packet = {};
	int verdict;

	memcpy(start, frame, length);
	memset(end, 0xff, slack);
	verdict = parse_link(&c, &packet) ?: parse_network(&c, &packet);
	if (!verdict)
		verdict = parse_transport(&ctx, &c, &packet);
	packet_spread(&packet, out);
	return verdict;
}
