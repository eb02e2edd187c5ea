# SPDX-License-Identifier: Apache-2.0
"""Two PoPs as docs/operate/deployment.md has them built, out of the files and commands in it.

The network is that of the lab's three-pop, whose addresses the guide has; of the third PoP nothing
runs at first. What the lab would set on machines of its own is taken back: the guide has to say it.
Providers and transit routers are the lab's; on border routers that part of its configuration
which the guide takes for granted, with the guide's in it.

All that differs from what the guide says stands in `differences`.
"""

import contextlib
import re
import shlex
import subprocess
import sysconfig
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from limpet.api.client import Client
from limpet.lab import internet, namespace, operations, paths, source, state
from limpet.lab.nats import program as nats_server
from limpet.lab.network import Network
from limpet.lab.sessions import HeldSessions, Server, short_connections
from limpet.lab.state import State
from limpet.lab.topology import Role, Topology

from . import wheel
from .conftest import fresh_name
from .differences import ELSEWHERE, INSTALLED, OFFLINE, STOCK
from .guide import Exchange, Guide, differing, shape
from .machine import HOME, UNITS, Machine
from .stage import Stage

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDE = ROOT / "docs" / "operate" / "deployment.md"
BACKENDS_GUIDE = GUIDE.with_name("backends.md")
VIP, PORT = "192.0.2.10", 80
CLIENT, VISITOR = "client2", "client1"
STORES = ("store1", "store2", "store3")
POPS = ("fra", "par")
SOURCES = 2_048
AGAIN_PER_S = 40
NEW_CLIENTS = 100
WAIT_S = 90.0


def network_of() -> Topology:
    """three-pop with the guide's VIP, and more addresses of clients."""
    plain = source.load("three-pop").model_dump()
    client = next(host for host in plain["host"] if host["name"] == CLIENT)
    client |= {"sources": SOURCES, "sources4": "10.2.8.0/21", "sources6": "2001:db8:2:800::/53"}
    return Topology.model_validate({**plain, "vip": [{"address": VIP}]})


Step = Callable[["Deployment"], None]


@dataclass
class Deployment:
    """The machines, and the guide that is carried out on them."""

    lab: str
    folder: Path
    topology: Topology
    guide: Guide = field(default_factory=lambda: Guide(GUIDE))
    machines: dict[str, Machine] = field(default_factory=dict)
    stores: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    shared: str = ""  # the document that all directors serve
    stage: Stage = field(init=False)
    reached: set[Step] = field(default_factory=set)
    failed: set[Step] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.stage = Stage(self.lab)

    def reach(self, step: Step, steps: tuple[Step, ...]) -> None:
        """Take the step, after all before it that were not taken yet. One that failed is not tried
        again, and nothing after it."""
        for each in steps[: steps.index(step) + 1]:
            assert each not in self.failed, f"{each.__name__} failed"
            if each not in self.reached:
                self.failed.add(each)
                each(self)
                self.failed.remove(each)
                self.reached.add(each)

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

    def ask(self, machine: str, command: str, holds: Callable[[str], object]) -> str:
        """What a command says, once it says what is wanted: others may have to hear of it first."""
        said = ""

        def is_so() -> bool:
            nonlocal said
            said = self[machine].run(command)
            return bool(holds(said))

        self.until(is_so, lambda: f"{command} on {machine}: {said}")
        return said

    def says(self, machine: str, exchange: Exchange) -> None:
        """What the guide shows, but for figures."""
        self.ask(machine, exchange.command, lambda said: shape(said) == shape(exchange.said))

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
            netns, folder = f"{self.lab}-{name}", self.folder / name
            while folder.exists():  # a machine of that name was here before
                folder = folder.with_name(f"{folder.name}-again")
            self.machines[name] = Machine(netns, folder, self.opt)
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
        """Take back what the lab knows of the way to other PoPs' directors: nobody needs it."""
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

    @contextlib.contextmanager
    def rewritten(self, machine: str, path: str, changes: dict[str, str]) -> Iterator[None]:
        """A file of a machine with other words in it; as it was, afterwards."""
        file = self[machine].path(path)
        before = file.read_text()
        file.write_text(differing(before, changes))
        try:
            yield
        finally:
            file.write_text(before)

    def share(self, machine: str) -> None:
        """The document, to where commands are given."""
        self[machine].write(f"{HOME}/shared.toml", self.shared)

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
            assert "valid" in machine.run(self.guide.command("First start", "nats-server"))
            self.start_store(store)

    def start_store(self, name: str) -> None:
        command = self.guide.command("First start", "nats-server").removesuffix(" -t")
        self.stores[name] = self[name].spawn(*command.split())

    def stop_store(self, name: str) -> None:
        process = self.stores.pop(name)
        process.terminate()
        process.wait(WAIT_S)

    def start_backends(self, *names: str) -> None:
        """Applications, then agents."""
        text = self.guide.block("Backends")
        check = self.guide.command("Backends", "limpet agent check")
        assert self.guide.command("Backends", "systemctl enable").endswith(" limpet-agent")
        unit = Guide(BACKENDS_GUIDE).block("With the agent", "ExecStart=")
        for name in names:
            self[name].write("/etc/limpet/agent.toml", differing(text, {"fra-b1": name}))
            self[name].write(f"{UNITS}/limpet-agent.service", unit)
            self.stage.servers[name] = Server(self.lab, name, PORT)
        self[names[0]].run(check)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self[name].start("limpet-agent"), names))

    def start_director(self, name: str) -> None:
        """What systemd would do; it starts by itself after a reboot as well."""
        assert self.guide.command("First start", "systemctl enable").endswith(" limpet")
        self[name].start("limpet")

    def start_router(self, pop: str) -> None:
        """What it has already, and what the guide adds."""
        self.guard(pop)
        machine, router = self[f"{pop}-r"], self.topology.border_of(pop)
        preference = "/etc/bird/preference.conf"
        machine.write(preference, internet.preference_file(self.topology, None))
        text = internet.router_file(self.topology, router, Path(preference))
        director = self.topology.director_of(pop).name.replace("-", "_")
        for pattern in (rf"protocol bgp {director}_[46] .*?^}}\n?", r"^protocol bfd .*?^}\n"):
            text, found = re.subn(pattern, "", text, flags=re.M | re.S)
            assert found
        machine.write("/etc/bird/bird.conf", text)
        machine.path("/run/bird").mkdir()
        machine.spawn("bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl")
        self.until(machine.path("/run/bird/bird.ctl").exists)
        machine.write("/etc/bird/bird.conf", f"{text}\n{self.router_part(pop)}")
        self.configure(machine.name)

    def configure(self, router: str) -> None:
        """The router's file tested, and loaded."""
        self[router].run(self.guide.command("Border routers", "bird -p"))
        said = self[router].run(self.guide.command("Border routers", "birdc configure"))
        assert "Reconfigur" in said, said

    def guard(self, pop: str) -> None:
        """The border router's firewall."""
        to = {"fra": "tr1", "par": "tr2", "ams": "tr3"}[pop]
        rules = differing(self.guide.block("Firewall", "hook forward"), {'"tr1"': f'"{to}"'})
        self[f"{pop}-r"].write("/etc/nftables.conf", rules)
        self[f"{pop}-r"].run(self.guide.command("Firewall", "nft -f"))

    def router_part(self, pop: str) -> str:
        words = ("fra", "10.10.0.", "65101", "65201")
        text = self.of_pop(self.guide.block("Border routers", "neighbor"), pop, *words)
        password = (self.keys / f"bgp-{pop}").read_text().strip()
        text = differing(text, {f"what is in bgp-{pop}": password})
        return f"{self.guide.snippet('Border routers', 'protocol bfd')}\n{text}"

    def write_director(self, name: str) -> None:
        """Its own file, its firewall's, and its unit's."""
        pop, machine = self.pop_of(name), self[name]
        words = ("fra", "10.10.0.", "10.250.10.", "65101", "65201")
        text = self.of_pop(self.guide.block("Directors' own files"), pop, *words)
        machine.write("/etc/limpet/limpet.toml", text)
        rules = self.of_pop(self.guide.block("Firewall", "tcp dport 179"), pop, "10.10.0.")
        machine.write("/etc/nftables.conf", rules)
        machine.run(self.guide.command("Firewall", "nft -f"))
        machine.run(self.guide.command("Machines", "install"), folder=str(ROOT))

    # --- Sessions -------------------------------------------------------------------------------

    def on(self, host: str, command: str) -> str:
        """What a command says on a host without files of its own: clients, the backbone."""
        with namespace.inside(f"{self.lab}-{host}"):
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def healthy(self, said: str) -> list[str]:
        """Backends that are up by what a check has found, in what `limpet health` says."""
        why = self.guide.snippet("First start", "accepts connections")
        return re.findall(rf"(\S+-b\d) +up .*{why}", said)

    def metrics(self, director: str) -> str:
        """As monitoring on the backbone reads them."""
        text = self[director].path("/etc/limpet/limpet.toml").read_text()
        listen = tomllib.loads(text)["metrics"]["listen"]
        return self[STORES[0]].run(f"curl -s http://{listen}/metrics")

    def entry(self, client: str = CLIENT) -> str:
        """The PoP that the client's packets go to; empty: none."""
        host = self.topology.find(client)
        return paths.walk(state.read(self.lab), host, ip_address(VIP)).pop

    def at(self, pop: str) -> None:
        self.until(lambda: self.entry() == pop, self.entry)

    def newcomers(self) -> dict[str, int]:
        """Where new clients go; all must be answered."""
        skip = self.stage.fresh(NEW_CLIENTS)
        found = short_connections(self.lab, CLIENT, NEW_CLIENTS, PORT, [VIP], skip=skip)
        assert found["failed"] == {}
        by_backend: dict[str, int] = found["by_backend"]
        return by_backend

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
            wheel.build(ROOT, site.guide, site.folder / "wheel")
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
