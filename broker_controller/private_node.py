"""A RabbitMQ node of our own: ports, data, log and cookie in one temporary folder, gone without a trace at the end.

Called by local_broker.py, by the tests and by the benchmarks. It uses the installed `rabbitmq-server`, needs no root,
touches no system-wide node, and knows nothing of what travels over the broker.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from broker_controller.amqp_probe import answers_amqp
from broker_controller.guarded_process import GuardedProcess
from broker_controller.held_port import HeldPort

HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
_NOT_YET = "requires the 'rabbit' app to be running"
# An ordinary user's PATH on Debian lacks the sbin folders; Homebrew's is not in the PATH of a service.
_MORE_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin", "/opt/rabbitmq/sbin")
# The Debian and RPM packages put a wrapper into /usr/sbin that changes to the user `rabbitmq` or refuses; this is what
# the wrapper runs.
_BEHIND_THE_WRAPPER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class PrivateNodeError(RuntimeError):
    """The private RabbitMQ node could not be started, or a command for it failed."""


def find_server() -> Path | None:
    """The installed `rabbitmq-server` that runs as whoever starts it, or None."""
    if os.access(_BEHIND_THE_WRAPPER, os.X_OK):
        return _BEHIND_THE_WRAPPER
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS])
    found = shutil.which("rabbitmq-server", path=folders)
    return Path(found) if found else None


class Membership(Struct, frozen=True):
    """What the nodes of one cluster share, and the place of this one in it.

    Attributes:
        address: the node's own on the loopback network, as 127.0.0.2: all nodes of a cluster have the same port there.
        port: where they talk to each other.
        cookie: their common secret.
        seed: name of the node that this one joins when it starts for the first time; "" for the first node.
    """

    address: str
    port: int
    cookie: str
    seed: str = ""


class PrivateNode:
    """One private node; a context manager that starts it and ends it.

    Args:
        port: AMQP port on 127.0.0.1; 0 takes a free one.
        extra_conf: more lines for its rabbitmq.conf.
        start_seconds: how long the start may take.
        stop_seconds: how long an orderly stop may take before SIGKILL.
        membership: its place in a cluster; None for a node by itself.
    """

    def __init__(
        self,
        port: int = 0,
        extra_conf: str = "",
        *,
        start_seconds: float = 90.0,
        stop_seconds: float = 15.0,
        membership: Membership | None = None,
    ) -> None:
        self._ports: list[HeldPort] = []
        self.port = port or self._hold_port()
        self._membership = membership or Membership("127.0.0.1", self._hold_port(), secrets.token_hex(16))
        self._epmd_socket: socket.socket | None = None
        self._extra_conf = extra_conf
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self.name = f"bc-{secrets.token_hex(4)}@{self._membership.address}"
        self._folder: Path | None = None
        self._process: GuardedProcess | None = None

    def _hold_port(self) -> int:
        self._ports.append(HeldPort(HOST))
        return self._ports[-1].number

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    @property
    def pid(self) -> int:
        """Process id of the Erlang VM."""
        if self._process is None:
            raise PrivateNodeError("the private RabbitMQ node does not run")
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where everything of the node is; exists from the first start() until close()."""
        if self._folder is None:
            raise PrivateNodeError("the private RabbitMQ node has not been started")
        return self._folder

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the node and wait until it speaks AMQP. After stop() or kill(): start again with the same data.

        Raises:
            PrivateNodeError: RabbitMQ is not installed, or the node ended or did not answer in time (with its log).
        """
        server = find_server()
        if server is None:
            raise PrivateNodeError("rabbitmq-server is not installed")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="bc-rabbitmq-"))
            self._write_files(self._folder)
            self._epmd_socket = socket.socket()
            self._epmd_socket.bind(("", 0))
        try:
            self._process = GuardedProcess(
                [str(server)],
                log=self._folder / "node.log",
                environment=self._environment(),
                folder=self._folder,
                grace=self._stop_seconds,
            )
            self._wait_ready(self._process)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End the node in order, and keep its data for another start()."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End the node at once, as a crash would, and keep its data."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """End the node, remove its folder and let its ports go; it cannot be started again."""
        self.stop()
        for port in self._ports:
            port.close()
        if self._epmd_socket is not None:
            self._epmd_socket.close()
            self._epmd_socket = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def rabbitmqctl(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run one `rabbitmqctl` command against this node and return its output.

        A node speaks AMQP a moment before it takes commands: that moment is waited for, `seconds` at most.

        Raises:
            PrivateNodeError: the command failed; the message has its output.
        """
        deadline = time.monotonic() + seconds
        while True:
            done = self._run_rabbitmqctl(arguments, seconds)
            if _NOT_YET not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        if done.returncode != 0:
            raise PrivateNodeError(f"rabbitmqctl {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _run_rabbitmqctl(self, arguments: tuple[str, ...], seconds: float) -> "subprocess.CompletedProcess[str]":
        server = find_server()
        if server is None:
            raise PrivateNodeError("rabbitmqctl is not installed")
        command = [str(server.with_name("rabbitmqctl")), "--quiet", "--node", self.name, *arguments]
        return subprocess.run(  # noqa: S603 - our own program with the caller's arguments, no shell
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _write_files(self, folder: Path) -> None:
        conf = f"listeners.tcp.1 = {HOST}:{self.port}\nlog.connection.level = warning\n{self._extra_conf}\n"
        if self._membership.seed:
            conf += f"cluster_formation.classic_config.nodes.1 = {self._membership.seed}\n"
        (folder / "rabbitmq.conf").write_text(conf)
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq-env.conf").write_text("")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(self._membership.cookie)
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        port = self._membership.port
        assert self._epmd_socket is not None  # noqa: S101 - it is there as long as the folder
        # Erlang VMs find each other by epmd, a daemon that would outlive the node. Told the port outright, neither the
        # node nor rabbitmqctl asks it. A node that already has its name does not start the second VM by which RabbitMQ
        # makes sure of epmd before it takes one: half a second saved. Later it does so once a minute, and rabbitmqctl
        # for its help: in vain, for every VM heeds ERL_FLAGS, and the port of epmd is one that we hold and do not
        # listen on.
        known_port = f"-erl_epmd_port {port}"
        interface = f"{{{self._membership.address.replace('.', ',')}}}"
        loopback = (
            f"-kernel inet_dist_listen_min {port} inet_dist_listen_max {port} inet_dist_use_interface {interface}"
        )
        return kept | {
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ERL_FLAGS": "-start_epmd false",
            "ERL_CRASH_DUMP_SECONDS": "0",  # no dump: its log says why it ended
            "RABBITMQ_NODENAME": self.name,
            # An address for a name needs no name server, and counts as a long one.
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_DIST_PORT": str(port),
            "ERL_EPMD_PORT": str(self._epmd_socket.getsockname()[1]),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            # The script then becomes the Erlang VM instead of waiting for it, so that signals meet the VM itself;
            # with that setting it leaves the input open, which -noinput closes again.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput +S 2:2 -name {self.name} {known_port} {loopback}",
            "RABBITMQ_CTL_ERL_ARGS": f"{known_port} -dist_listen false",
        }

    def _wait_ready(self, process: GuardedProcess) -> None:
        deadline = time.monotonic() + self._start_seconds
        while not answers_amqp(HOST, self.port):
            if process.ended(within=_POLL_SECONDS):
                raise PrivateNodeError(f"the private RabbitMQ node ended while it started:\n{process.log_tail()}")
            if time.monotonic() > deadline:
                problem = f"the private RabbitMQ node did not answer within {self._start_seconds:.0f} s"
                raise PrivateNodeError(f"{problem}:\n{process.log_tail()}")
