# SPDX-License-Identifier: Apache-2.0
"""Where things lie in NATS: names of streams and subjects, and how each stream is set up.

Three kinds of stream: keys (laid out as a NATS key-value bucket, so that the tools for those show
it), blobs, and one for each log. Names of ours may hold any character; those of NATS may not, so
everything but letters, digits, `_` and `-` is written as `=` and two hex digits for each byte, and
the slash between the parts of a key as a dot.

All are on disk, and each says how large it may become: NATS sets that much aside.
"""

import hashlib
import re
from dataclasses import dataclass

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from limpet.store.interface import Limits

KEYS_BYTES_MAX = 128 << 20
REPLICAS = 3  # of three servers or more; of fewer, a second copy only adds ways to stand still
DUPLICATES_S = 120.0  # how long a change that is sent again is known
PLAIN = re.compile(r"[^A-Za-z0-9_-]")


def encode(name: str) -> str:
    """As one token of a subject."""
    return PLAIN.sub(lambda match: "".join(f"={b:02X}" for b in match[0].encode()), name)


def decode(token: str) -> str:
    parts = re.split(r"((?:=[0-9A-F]{2})+)", token)
    return "".join(
        bytes.fromhex(part.replace("=", "")).decode() if part.startswith("=") else part
        for part in parts
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """The streams of one cluster of directors."""

    cluster: str
    limits: Limits

    @property
    def bucket(self) -> str:
        return f"limpet-{encode(self.cluster)}"

    @property
    def keys(self) -> str:
        return f"KV_{self.bucket}"

    @property
    def blobs(self) -> str:
        return f"{self.bucket}-blobs"

    def log(self, name: str) -> str:
        return f"{self.bucket}-log-{encode(name)}"

    def log_name(self, stream: str) -> str | None:
        """Of a stream that is a log of this cluster."""
        prefix = f"{self.bucket}-log-"
        return decode(stream.removeprefix(prefix)) if stream.startswith(prefix) else None

    # --- Subjects -------------------------------------------------------------------------------

    def key_subject(self, key: str) -> str:
        return f"$KV.{self.bucket}." + ".".join(encode(part) for part in key.split("/"))

    def key_of(self, subject: str) -> str:
        return "/".join(decode(part) for part in subject.split(".")[2:])

    def key_filter(self, prefix: str) -> str:
        """Matches every key that begins so, and perhaps others."""
        whole = prefix.rpartition("/")[0]
        return f"{self.key_subject(whole)}.>" if whole else f"$KV.{self.bucket}.>"

    def log_subject(self, name: str) -> str:
        return f"limpet.{encode(self.cluster)}.log.{encode(name)}"

    def blob_subject(self, digest: str, part: int | str) -> str:
        return f"limpet.{encode(self.cluster)}.blob.{encode(digest)}.{part}"

    @property
    def blob_filter(self) -> str:
        return f"limpet.{encode(self.cluster)}.blob.*.*"

    # --- Streams --------------------------------------------------------------------------------

    def config(self, stream: str, replicas: int, first: int | None = None) -> StreamConfig:
        config = StreamConfig(
            name=stream,
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=DUPLICATES_S,
            max_age=0,
            first_seq=first,
            allow_direct=False,  # a copy that lags would answer with what was
        )
        if stream == self.keys:
            return config.evolve(
                subjects=[f"$KV.{self.bucket}.>"],
                max_msgs_per_subject=1,
                max_bytes=KEYS_BYTES_MAX,
                discard=DiscardPolicy.NEW,  # refuse rather than forget
                allow_rollup_hdrs=True,
                deny_delete=True,
                allow_msg_ttl=True,
            )
        if stream == self.blobs:
            return config.evolve(
                subjects=[self.blob_filter],
                max_msgs_per_subject=1,
                max_bytes=self.limits.blobs_bytes,
                discard=DiscardPolicy.OLD,
            )
        return config.evolve(
            subjects=[self.log_subject(self.log_name(stream) or "")],
            max_age=self.limits.log_age_s,
            max_bytes=self.limits.log_bytes,
            discard=DiscardPolicy.OLD,
            duplicate_window=min(DUPLICATES_S, self.limits.log_age_s),
        )


def message_id(*parts: object) -> str:
    """The same for what is sent again."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
