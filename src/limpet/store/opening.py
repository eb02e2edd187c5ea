# SPDX-License-Identifier: Apache-2.0
"""Which store a configuration names: servers, then NATS; none, then a file on this machine.

Opening never waits: a store that cannot be reached yet says so in its `state`, and its calls end
with `Unavailable` until it can. What is wrong with the configuration itself is said at once.

The library for NATS is imported here only when it is needed: alone, a director does without.
"""

import ssl
import sys
from pathlib import Path

from limpet import __version__
from limpet.core.errors import ConfigError, Problem
from limpet.core.model import Cluster
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Limits, Store

FILE = "cluster.db"


def open_store(cluster: Cluster, folder: Path, limits: Limits | None = None) -> Store:
    """To be called in the event loop that uses it."""
    if not cluster.servers:
        return EmbeddedStore(folder / FILE, limits)
    try:
        from limpet.store.jetstream import JetStreamStore
        from limpet.store.link import Servers
    except ModuleNotFoundError as error:
        wheel = f"./limpet-{__version__}-py3-none-any.whl[cluster]"
        mend = f"install limpet's wheel with its extra: {sys.prefix}/bin/pip install '{wheel}'"
        raise _wrong("servers", "the library for NATS, nats-py, is missing", mend) from error
    servers = Servers(cluster.servers, f"limpet {cluster.name}", tls_context(cluster))
    return JetStreamStore(servers, cluster.name, limits)


def tls_context(cluster: Cluster) -> ssl.SSLContext | None:
    """None without a CA: then the connection is not encrypted, unless the URLs say so."""
    if not cluster.tls_ca:
        return None
    if bool(cluster.tls_certificate) != bool(cluster.tls_key):
        raise _wrong(
            "tls_key", "a certificate needs its key, and a key its certificate", "set both"
        )
    try:
        context = ssl.create_default_context(cafile=cluster.tls_ca)
        if cluster.tls_certificate:
            context.load_cert_chain(cluster.tls_certificate, cluster.tls_key)
    except (OSError, ssl.SSLError) as error:
        mend = "give the paths of PEM files: the CA's, this director's certificate, and its key"
        raise _wrong(
            "tls_ca, tls_certificate, tls_key", f"cannot use them: {error}", mend
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _wrong(key: str, why: str, mend: str) -> ConfigError:
    return ConfigError([Problem(f"[cluster] {key}", why, mend)])
