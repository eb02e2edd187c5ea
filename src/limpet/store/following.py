# SPDX-License-Identifier: Apache-2.0
"""Messages of a stream from a sequence on, as they come, without a silent gap.

NATS pushes them; each carries its number among those pushed, and when there is none a heartbeat
every half second says which was the last. A number that is missing, or three heartbeats that do
not come, end it with `Interrupted`, and the caller begins again behind what it has. So whatever
becomes of a connection, a server or a consumer, nothing is left out, and it is noticed in 1.5 s.

Only what is read is asked for: NATS waits when who reads is slow (flow control).
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from limpet.store.link import Link

HEARTBEAT_S = 0.5
SILENCE_S_MAX = 3 * HEARTBEAT_S
INACTIVE_S = 10.0  # then NATS forgets a consumer that nobody listens to


class Interrupted(Exception):  # noqa: N818 - what it means, and never shown
    """Begin again after the last message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream."""

    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]


async def follow(link: Link, stream: str, subject: str, after: int) -> AsyncIterator[Message]:
    """Messages with a sequence above `after`; raises Interrupted, or as `Link.call`."""
    client = await link.client()
    subscription = await client.subscribe(inbox := client.new_inbox())
    config = ConsumerConfig(
        deliver_subject=inbox,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        max_deliver=1,
        idle_heartbeat=HEARTBEAT_S,
        flow_control=True,
        inactive_threshold=INACTIVE_S,
        mem_storage=True,
        num_replicas=1,
    )

    async def attempt(js: JetStreamContext) -> object:
        return await js.add_consumer(stream, config)

    try:
        await link.call(f"follow {stream}", attempt)
        number = 0
        while True:
            message = await subscription.next_msg(timeout=SILENCE_S_MAX)
            if is_status(message):
                await _answer(client, message, number)
                continue
            number += 1
            metadata = message.metadata
            if metadata.sequence.consumer != number:
                raise Interrupted
            sequence = metadata.sequence.stream
            yield Message(sequence, message.subject, message.data, message.headers or {})
    except NatsError as error:
        raise Interrupted from error
    finally:
        with suppress(NatsError):
            await subscription.unsubscribe()


def is_status(message: Msg) -> bool:
    return not message.data and bool(message.headers) and "Status" in (message.headers or {})


async def _answer(client: Client, message: Msg, number: int) -> None:
    """Heartbeats say what was last; flow control wants to hear from who reads."""
    headers = message.headers or {}
    if headers.get("Status") != "100":
        raise Interrupted  # the consumer is gone
    if message.reply:
        await client.publish(message.reply, b"")
        return
    stalled = headers.get("Nats-Consumer-Stalled")
    if stalled:
        await client.publish(stalled, b"")
    if int(headers.get("Nats-Last-Consumer", number)) != number:
        raise Interrupted
