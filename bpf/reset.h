/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_RESET_H
#define LIMPET_RESET_H

/* A packet of a TCP flow that is being reset: the daemon gets all that it takes to send a RST to both ends, with
 * the right sequence numbers (RFC 9293, section 3.5.3), and the flow counts as closing. The packet ends here.
 */

#include "cursor.h"
#include "flow.h"
#include <linux/tcp.h>

static __always_inline void reset_close_flow(const struct flow *f, const struct packet *p)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry = flow_find(f);
	struct flow_state state = {.life = LIFE_CLOSING};
	struct membership m;
	__u64 word;

	if (!entry || !limits)
		return;
	word = READ_ONCE(entry->word);
	if ((word & FLOW_MATCH) != f->match || FLOW_GET(word, LIFE) == LIFE_CLOSING)
		return;
	state.backend = word & FLOW_FIELD(BACKEND);
	state.session = FLOW_GET(word, SESSION);
	if (__sync_val_compare_and_swap(&entry->word, word, flow_word(f, &state, word)) == word)
		flow_tell(&m, f, p, word, LIFE_CLOSING, limits);
}

/* Tell the daemon; VERDICT_RESET, or the verdict that says why not. */
__noinline int reset_report(struct xdp_md *ctx, const struct flow *f, const struct packet *p, __u32 backend)
{
	struct cursor c = cursor_open(ctx);
	const struct tcphdr *tcp;
	struct reset *record;
	__u64 *words;

	if (!f || !p)
		return VERDICT_DROP_MALFORMED;
	cursor_skip(&c, p->link_length);
	cursor_skip(&c, p->header_length);
	tcp = cursor_take(&c, sizeof(*tcp));
	if (!tcp)
		return VERDICT_DROP_MALFORMED;
	record = bpf_ringbuf_reserve(&resets, sizeof(*record), 0);
	if (!record)
		return VERDICT_DROP_RESET;
	words = (void *)record;
	words[0] = swap64(p->client[0]);
	words[1] = swap64(p->client[1]);
	words[2] = swap64(p->vip_address[0]);
	words[3] = swap64(p->vip_address[1]);
	record->sequence = swap32(tcp->seq);
	record->acknowledged = swap32(tcp->ack_seq);
	record->client_port = p->client_port;
	record->vip_port = p->vip_port;
	record->backend = backend;
	record->family = p->family;
	record->reserved = 0;
	bpf_ringbuf_submit(record, 0);
	reset_close_flow(f, p);
	return VERDICT_RESET;
}

#endif
