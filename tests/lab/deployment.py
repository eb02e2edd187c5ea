# SPDX-License-Identifier: Apache-2.0
"""Two PoPs as docs/operate/deployment.md has them built, out of the files and commands in it.

The network is that of the lab's three-pop, whose addresses the guide has; of the third PoP nothing
runs at first. What the lab would set on machines of its own is taken back: the guide has to say it.
Providers and transit routers are the lab's; on border routers that part of its configuration
which the guide takes for granted, with the guide's in it.

The tables below say all that differs from what the guide says, and why.
"""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from limpet.api.client import Client
from limpet.lab import internet, namespace, operations, paths, source, state
from limpet.lab.nats import program as nats_server
from limpet.lab.network import Network
from limpet.lab.sessions import HeldSessions, Server
from limpet.lab.state import State
from limpet.lab.topology import Role, Topology

from .conftest import fresh_name
from .guide import Guide, differing
from .machine import Machine
from .stage import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDE = ROOT / "docs" / "operate" / "deployment.md"
BACKENDS_GUIDE = GUIDE.with_name("backends.md")
UNIT = ROOT / "packaging" / "limpet.service"
VIP, PORT = "192.0.2.10", 80
CLIENT, VISITOR = "client2", "client1"
STORES = ("store1", "store2", "store3")
POPS = ("fra", "par")
SOURCES = 2_048
AGAIN_PER_S = 40
WAIT_S = 90.0

# What another PoP has in place of what the guide shows for fra.
ELSEWHERE = {
    "par": {
        "fra": "par",
        "10.10.0.": "10.20.0.",
        "10.250.10.": "10.250.20.",
        "65101": "65102",
        "65201": "65202",
    },
    "ams": {
        "fra": "ams",
        "10.10.0.": "10.30.0.",
        "10.250.10.": "10.250.30.",
        "65101": "65103",
        "65201": "65203",
    },
}
# Nothing is fetched here: libraries and pip are those that the tests run with.
OFFLINE_PIP = (
    f"{sys.executable} -m pip --disable-pip-version-check --python /opt/limpet/bin/python install"
    " --no-index --no-deps"
)
OFFLINE = {
    "apt install libbpf1 iproute2 python3-venv bird2\n": "",
    "systemctl disable --now bird                  # limpet runs a BIRD of its own\n": "",
    "python3 -m venv": f"{sys.executable} -m venv --without-pip",
    "/opt/limpet/bin/pip install": OFFLINE_PIP,
    "'./limpet-0.1.0-py3-none-any.whl[cluster]'": "./*.whl",
}
# Of the whole, what is another machine's once it was made on the first.
INSTALLED = (sys.executable,)
# As Debian has them: what limpet needs else it has to set itself, or the guide has to say.
STOCK = {
    "ipv4.ip_forward": "0",
    "ipv6.conf.all.forwarding": "0",
    "ipv4.conf.all.arp_ignore": "0",
    "ipv4.conf.all.arp_announce": "0",
}


def network_of() -> Topology:
    """three-pop with the guide's VIP, and more addresses of clients."""
    plain = source.load("three-pop").model_dump()
    client = next(host for host in plain["host"] if host["name"] == CLIENT)
    client |= {"sources": SOURCES, "sources4": "10.2.8.0/21", "sources6": "2001:db8:2:800::/53"}
    return Topology.model_validate({**plain, "vip": [{"address": VIP}]})


@dataclass
class Deployment:
    """The machines, and the guide that is carried out on them."""

    lab: str
    folder: Path
    topology: Topology
    guide: Guide = field(default_factory=lambda: Guide(GUIDE))
    machines: dict[str, Machine] = field(default_factory=dict)
    stage: Stage = field(init=False)

    def __post_init__(self) -> None:
        self.stage = Stage(self.lab)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def opt(self) -> Path:
        """What is under /opt of every machine."""
        return self.folder / "opt"

    def of(self, role: Role, *pops: str) -> list[str]:
        return [host.name for host in self.topology.hosts(role) if host.pop in (pops or POPS)]

    def pop_of(self, name: str) -> str:
        return str(self.topology.find(name).pop)

    def api(self, director: str) -> Client:
        """Of the daemon there; for what is asked often."""
        return Client(self[director].path(f"/run/limpet/{director}.sock"))

    def until(self, holds: Callable[[], bool], see: Callable[[], object] = str) -> None:
        self.stage.until(holds, WAIT_S, see)

    def ask(self, machine: str, command: str, holds: Callable[[str], bool]) -> str:
        """What a command says, once it says what is wanted: others may have to hear of it first."""
        said = ""

        def is_so() -> bool:
            nonlocal said
            said = self[machine].run(command)
            return holds(said)

        self.until(is_so, lambda: f"{command} on {machine}: {said}")
        return said

    # --- Machines -------------------------------------------------------------------------------

    def lay_cables(self) -> None:
        """The network, and the internet's own routers."""
        with state.locked(self.lab, create=True):
            now = State(lab=self.lab, phase="up", topology=self.topology, numbers_used={})
            state.save(now)
            Network(self.lab, self.topology).build()
            for router in self.topology.hosts(Role.ROUTER):
                if router.pop is None:
                    now = operations.start_programs(now, router)

    def set_up(self, *names: str) -> None:
        """Machines as Debian leaves them, with what the guide has installed there."""
        for name in names:
            netns = f"{self.lab}-{name}"
            self.machines[name] = Machine(netns, self.folder / name, self.opt)
            if self.topology.find(name).role in (Role.DIRECTOR, Role.BACKEND):
                namespace.sysctl(netns, STOCK)
                self.install(name)
            self._unroute(name)

    def install(self, name: str) -> None:
        """What is the same on all machines is made on the first, and laid under the others."""
        script = differing(self.guide.block("Machines"), OFFLINE)
        first = not any(self.opt.iterdir())
        if not first:
            kept = [line for line in script.splitlines() if not line.startswith(INSTALLED)]
            script = "\n".join(kept)
        self[name].run(script, folder=str(self.folder / "wheel"))
        if first:
            (site,) = self[name].path("/opt/limpet/lib").glob("python*/site-packages")
            (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
            subprocess.run(["cp", "-a", self[name].path("/opt/limpet"), self.opt], check=True)

    def _unroute(self, name: str) -> None:
        """Take back what the lab knows of the way to other PoPs' directors."""
        if self.topology.find(name).role is Role.BACKEND:
            for director in self.of(Role.DIRECTOR, *ELSEWHERE, "fra"):
                if self.pop_of(director) != self.pop_of(name):
                    to = self.topology.interface4(self.topology.find(director)).ip
                    self[name].run(f"ip route del {to}/32")

    # --- Files ----------------------------------------------------------------------------------

    def of_pop(self, text: str, pop: str, *words: str) -> str:
        """What is shown for fra as it is in that PoP; these words of it differ."""
        if pop == "fra":
            return differing(text, {word: word for word in words})
        return differing(text, {word: ELSEWHERE[pop][word] for word in words})

    def make_keys(self) -> None:
        self.keys.mkdir()
        self.shell(self.guide.block("Keys", "openssl rand"))

    def shell(self, script: str) -> None:
        """On the machine where keys are made; no network is needed."""
        argv = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(argv, cwd=self.keys, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def hand_out(self, key: str, files: tuple[str, ...], machine: str, place: int = 0) -> None:
        """Keys, to where their row of the table says; `place`: the which of its paths is first."""
        to = self.guide.row("Keys", key)[2]
        named = re.findall(r"`([^`]+)`", to)[place:]
        modes = re.findall(r"mode (\d+)", to)
        folder = Path(named[0]).parent
        for file, name in zip(files, named, strict=False):
            content = (self.keys / file).read_bytes()
            self[machine].write(str(folder / name), content, int(modes[0], 8))

    def hand_out_all(self) -> None:
        for director in self.of(Role.DIRECTOR):
            self.hand_out_director(director)
        for store in STORES:
            self.hand_out("ca.pem", ("ca.pem",), store, place=1)
            self.hand_out("store1.pem", (f"{store}.pem", f"{store}.key"), store)

    def hand_out_director(self, name: str) -> None:
        self.hand_out("cluster.key", ("cluster.key",), name)
        self.hand_out("bgp-fra", (f"bgp-{self.pop_of(name)}",), name)
        self.hand_out("ca.pem", ("ca.pem",), name)
        self.hand_out("fra-d1.pem", (f"{name}.pem", f"{name}.key"), name)

    # --- Programs -------------------------------------------------------------------------------

    def start_stores(self) -> None:
        text = self.guide.block("Store")
        for number, store in enumerate(STORES, 2):
            machine, own = self[store], f"10.250.0.{number}"
            machine.path("/usr/bin/nats-server").symlink_to(nats_server())
            changes = {
                "server_name: store1": f"server_name: {store}",
                'listen: "10.250.0.2:': f'listen: "{own}:',
            }
            machine.write("/etc/nats/server.conf", differing(text, changes))
            test = self.guide.command("First start", "nats-server")
            assert "valid" in machine.run(test)
            machine.spawn(*test.removesuffix(" -t").split())

    def start_backends(self, *names: str) -> None:
        """Applications, then agents."""
        text = self.guide.block("Backends")
        check = self.guide.command("Backends", "limpet agent check")
        unit = Guide(BACKENDS_GUIDE).block("With the agent", "ExecStart=")
        for name in names:
            self[name].write("/etc/limpet/agent.toml", differing(text, {"fra-b1": name}))
            self.stage.servers[name] = Server(self.lab, name, PORT)
        self[names[0]].run(check)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self[name].start("limpet-agent", unit), names))

    def start_director(self, name: str) -> None:
        """What systemd would do; it starts by itself after a reboot as well."""
        assert self.guide.command("First start", "systemctl enable").endswith(" limpet")
        self[name].start("limpet", UNIT.read_text())

    def start_router(self, pop: str) -> None:
        """What it has already, and what the guide adds."""
        machine, router = self[f"{pop}-r"], self.topology.border_of(pop)
        preference = "/etc/bird/preference.conf"
        machine.write(preference, internet.preference_file(self.topology, None))
        text = internet.router_file(self.topology, router, Path(preference))
        director = self.topology.director_of(pop).name.replace("-", "_")
        for pattern in (rf"protocol bgp {director}_[46] .*?^}}\n?", r"^protocol bfd .*?^}\n"):
            text, found = re.subn(pattern, "", text, flags=re.M | re.S)
            assert found
        machine.write("/etc/bird/bird.conf", f"{text}\n{self.router_part(pop)}")
        machine.path("/run/bird").mkdir()
        machine.run(self.guide.command("Border routers", "bird -p"))
        machine.spawn("bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl")

    def router_part(self, pop: str) -> str:
        words = ("fra", "10.10.0.", "65101", "65201")
        text = self.of_pop(self.guide.block("Border routers", "neighbor"), pop, *words)
        password = (self.keys / f"bgp-{pop}").read_text().strip()
        text = differing(text, {f"what is in bgp-{pop}": password})
        return f"{self.guide.snippet('Border routers', 'protocol bfd')}\n{text}"

    def write_director(self, name: str) -> None:
        """Its own file, and its firewall's."""
        pop, machine = self.pop_of(name), self[name]
        words = ("fra", "10.10.0.", "10.250.10.", "65101", "65201")
        text = self.of_pop(self.guide.block("Directors' own files"), pop, *words)
        machine.write("/etc/limpet/limpet.toml", text)
        rules = self.of_pop(self.guide.block("Firewall", "tcp dport 179"), pop, "10.10.0.")
        machine.write("/etc/nftables.conf", rules)

    # --- Sessions -------------------------------------------------------------------------------

    def outside(self, command: str, client: str = CLIENT) -> str:
        """What a command says on a client."""
        with namespace.inside(f"{self.lab}-{client}"):
            done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def entry(self, client: str = CLIENT) -> str:
        """The PoP that the client's packets go to; empty: none."""
        host = self.topology.find(client)
        return paths.walk(state.read(self.lab), host, ip_address(VIP)).pop

    def at(self, pop: str) -> None:
        self.until(lambda: self.entry() == pop, self.entry)

    @contextlib.contextmanager
    def hold(self, number: int, client: str = CLIENT) -> Iterator[HeldSessions]:
        """Sessions of new clients; each comes again now and then."""
        is_many = client == CLIENT
        wanted: dict[str, object] = {
            "skip": self.stage.fresh(number) if is_many else 0,
            "again": AGAIN_PER_S if is_many else 0,
        }
        with HeldSessions(self.lab, client, number, PORT, [VIP], **wanted) as held:
            opened = held.wait_open()
            assert (opened["broken"], opened["alive"]) == ([], number)
            yield held


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """The machines of two PoPs and the stores, with what is to be installed."""
    with fresh_name() as lab:
        site = Deployment(lab, folder, network_of())
        try:
            site.opt.mkdir()
            wheel(ROOT, site)
            site.lay_cables()
            first, *others = site.of(Role.DIRECTOR)
            site.set_up(first, *others, *site.of(Role.BACKEND), *STORES)
            site.set_up(*(f"{pop}-r" for pop in POPS))
            yield site
        finally:
            for server in site.stage.servers.values():
                server.close()
            for machine in site.machines.values():
                machine.close()


def wheel(tree: Path, site: Deployment) -> Path:
    """Built as the guide says; what it is built with is installed here."""
    command = site.guide.command("Machines", "pip wheel").removesuffix(" .")
    folder = site.folder / "wheel"
    folder.mkdir(exist_ok=True)
    how = ("--no-build-isolation", str(tree), "-w", str(folder))
    argv = [sys.executable, "-m", *command.split(), *how]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path
