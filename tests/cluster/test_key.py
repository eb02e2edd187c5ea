# SPDX-License-Identifier: Apache-2.0
"""The secret of a cluster: whoever can read it can tell directors where sessions are."""

from pathlib import Path

import pytest

from limpet.core.errors import ConfigError
from limpet.daemon.cluster.company import secret_of


def test_a_secret_is_taken_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(range(32)))
    assert secret_of(path) == bytes(range(32))


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [(0o644, 32, "open to others (mode 0644)"), (0o600, 31, "31 bytes are no secret")],
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, mode: int, size: int, said: str) -> None:
    path = tmp_path / "cluster.key"
    path.write_bytes(bytes(size))
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        secret_of(path)
    assert said in str(caught.value)
    assert ("chmod 600" if mode != 0o600 else "openssl rand") in str(caught.value)
