# SPDX-License-Identifier: Apache-2.0
"""`limpet diff` says what the file says, what commands put on top, and what is in effect."""

import json
from ipaddress import ip_address

from limpet.core.effective import NOTHING, effective
from limpet.core.eligible import assess
from limpet.core.health import Health
from limpet.core.intent import Drain, Intents, encode
from limpet.core.model import Backend, Desired, Director, HealthCheck, Pool

DESIRED = Desired(
    Director("d1", ("eth0",)),
    tuple(Backend(f"b{i}", ip_address(f"10.0.0.{i}")) for i in (1, 2, 3)),
    (
        Pool("web", {"b1": 2, "b2": 1}, health=HealthCheck()),
        Pool("api", {"b2": 5, "b3": 0}),
    ),
)
INTENTS = Intents(
    {"b1": Drain("b1", 0, "ann"), "b8": Drain("b8", 0, "ann")},
    {("api", "b2"): 7, ("api", "b1"): 3, ("old", "b1"): 4},
)
DOWN = {("web", "b2"): Health(False, 50, "connection refused")}


def test_text_lists_what_is_otherwise_than_in_the_file() -> None:
    found = effective(DESIRED, INTENTS, assess(DESIRED, INTENTS, DOWN, 60, {}))
    assert str(found).splitlines() == [
        "pool web",
        "  b1: file 2, in effect 0: draining since 1970-01-01T00:00:00Z",
        "  b2: file 1, in effect 0: down: connection refused; "
        "new flows of its sessions go elsewhere",
        "pool api",
        "  b2: file 5, command 7, in effect 7: weight 7 by command, 5 in the file",
        "drain of b8: without effect, the file has no such backend",
        "weight 3 of b1 in pool api: without effect, it is not in there",
        "weight 4 of b1 in pool old: without effect, it is not in there",
    ]


def test_text_says_so_if_there_is_nothing_to_say() -> None:
    assert str(effective(DESIRED, Intents(), assess(DESIRED, Intents(), {}, 0, {}))) == NOTHING


def test_json_has_all_three_for_every_backend() -> None:
    found = effective(DESIRED, INTENTS, assess(DESIRED, INTENTS, DOWN, 60, {})).json()
    assert json.loads(json.dumps(found)) == found
    assert found["file"] == {"pools": {"web": {"b1": 2, "b2": 1}, "api": {"b2": 5, "b3": 0}}}
    assert found["intents"]["drains"] == encode(INTENTS)["drains"]
    assert len(found["intents"]["without_effect"]) == 3
    rows = {(row["pool"], row["backend"]): row for row in found["effective"]}
    assert len(rows) == 4
    assert rows[("api", "b2")] == {
        "pool": "api",
        "backend": "b2",
        "file_weight": 5,
        "command_weight": 7,
        "intent": "active",
        "effective_weight": 7,
        "full_weight": 7,
        "standing": [],
        "reasons": ["weight 7 by command, 5 in the file"],
    }
    assert rows[("web", "b1")]["intent"] == "draining"
    assert rows[("api", "b3")]["reasons"] == ["weight 0"]
