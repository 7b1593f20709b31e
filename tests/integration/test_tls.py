"""TLS to real servers: what fits works, what does not is refused before a secret is sent, and says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from streamtask import App, Event
from streamtask.errors import ConfigurationError, TransportError
from streamtask.transport.connect import open_transport
from tests.command_line import ask
from tests.servers import RedisServer, ServerBinary, free_port

trustme = pytest.importorskip("trustme", reason="certificates are made by trustme (the extra `test`)")

PASSWORD = "kä/se:b@d#17"
SECRET = "the order of the day"
#: What must not be seen on the wire, in any spelling.
CANARIES = [PASSWORD.encode(), quote(PASSWORD, safe="").encode(), SECRET.encode(), b"AUTH", b"stream:orders"]


class Order(Event, stream="orders"):
    text: str


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one certificate, and of the authority that a client is told to trust."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def options(self) -> list[str]:
        """For a server."""
        return [
            "--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key),
            "--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no",
        ]  # fmt: skip


def issue(folder: Path, *names: str, until: datetime | None = None, trusted: bool = True, own: bool = False) -> Files:
    """A certificate. `trusted`: by the authority that clients are given; `own`: it is signed by nobody but itself."""
    folder.mkdir(exist_ok=True)
    authority, other = trustme.CA(), trustme.CA()
    issued = (authority if trusted else other).issue_cert(*names, not_after=until)
    files = Files(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    authority.cert_pem.write_to_path(str(files.authority))
    if own:
        other.cert_pem.write_to_path(str(files.certificate))
        other.private_key_pem.write_to_path(str(files.key))
    else:
        issued.private_key_pem.write_to_path(str(files.key))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(files.certificate), append=True)
    return files


class SecureServer(RedisServer):
    """A server that speaks TLS on a port, and asks for a password there and on its socket."""

    def __init__(self, binary: ServerBinary, files: Files) -> None:
        super().__init__(binary)
        self.files = files
        self.tls_port = free_port()

    def open(self, *options: str) -> None:
        """Start it, or skip the test where its program was built without TLS."""
        try:
            self.start("--tls-port", str(self.tls_port), *self.files.options, *options)
        except RuntimeError as error:
            if "Bad directive" in str(error):
                pytest.skip(f"{self.binary.name} was built without TLS")
            raise
        self.client().execute_command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")

    def secure_url(self, port: int = 0, scheme: str = "rediss", host: str = "localhost", **options: object) -> str:
        """What a client is given; `port`: of a relay in between."""
        query = "&".join(f"{name}={value}" for name, value in {"ssl_ca_certs": self.files.authority, **options}.items())
        place = f"{host}:{port or self.tls_port}"
        return f"{scheme}://:{quote(PASSWORD, safe='')}@{place}/0" + (f"?{query}" if scheme != "redis" else "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the certificates of a test are."""
    return tmp_path / "tls"


@dataclass(slots=True)
class Wire:
    """A relay between a client and a server, and every byte that went through it."""

    port: int = 0
    sent: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def relay(to_port: int) -> AsyncIterator[Wire]:
    """Record what goes to a port of this machine."""
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        try:
            with contextlib.suppress(OSError):
                while some := await reader.read(1 << 16):
                    record += some
                    writer.write(some)
                    await writer.drain()
        finally:
            writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        tasks.add(asyncio.create_task(pump(reader, far_writer, wire.sent)))
        tasks.add(asyncio.create_task(pump(far_reader, writer, wire.answered)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted sockets close in callbacks


def seen_in(wire: Wire) -> list[bytes]:
    """The secrets that could be read on the way."""
    everything = bytes(wire.sent + wire.answered)
    return [canary for canary in CANARIES if canary in everything]


@pytest.fixture
def secure_server(server_binary: ServerBinary, folder: Path) -> Iterator[SecureServer]:
    """A server whose certificate is as it should be."""
    server = SecureServer(server_binary, issue(folder, "localhost", "127.0.0.1"))
    try:
        server.open()
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_events_are_published_handled_and_inspected_through_tls_and_nothing_can_be_read_on_the_way(
    secure_server: SecureServer, scheme: str
) -> None:
    async with relay(secure_server.tls_port) as wire:
        url = secure_server.secure_url(wire.port, scheme)
        app = App("shop", broker=url)
        handled: asyncio.Queue[str] = asyncio.Queue()

        @app.on(Order)
        async def handle(order: Order) -> None:
            handled.put_nowait(order.text)

        async with app.worker():
            await app.publish(Order(text=SECRET))
            assert await asyncio.wait_for(handled.get(), 10) == SECRET
            [group] = (await ask(url, "inspect", "groups", "--json")).document
        assert (group["stream"], group["group"]) == ("orders", "shop")
        assert len(wire.sent) > 1000
        assert seen_in(wire) == []


async def test_the_recording_shows_what_goes_without_tls(secure_server: SecureServer) -> None:
    """What would make the other tests pass for the wrong reason: a recording that sees nothing."""
    secure_server.client(password=PASSWORD).config_set("port", str(port := free_port()))
    async with relay(port) as wire:
        async with App("shop", broker=secure_server.secure_url(wire.port, "redis")) as app:
            await app.publish(Order(text=SECRET))
        # A password goes as it is; so do the payload and the names.
        assert set(seen_in(wire)) == set(CANARIES) - {quote(PASSWORD, safe="").encode()}


LONG_AGO = datetime.now(UTC) - timedelta(days=1)
WRONG_CERTIFICATES = {
    "expired": ({"until": LONG_AGO}, ["localhost"], "certificate has expired"),
    "of another host": ({}, ["elsewhere.example"], "Hostname mismatch|not valid for 'localhost'"),
    "signed by itself": ({"own": True}, ["localhost"], "self-signed certificate|self signed certificate"),
    "of an unknown authority": ({"trusted": False}, ["localhost"], "unable to get (local )?issuer certificate|self"),
}


@pytest.mark.parametrize("wrong", WRONG_CERTIFICATES)
async def test_a_certificate_that_does_not_fit_is_refused_before_anything_is_sent_and_said(
    server_binary: ServerBinary, folder: Path, wrong: str
) -> None:
    options, names, said = WRONG_CERTIFICATES[wrong]
    server = SecureServer(server_binary, issue(folder, *names, **options))
    try:
        server.open()
        async with relay(server.tls_port) as wire:
            error = await refusal(server.secure_url(wire.port))
            assert re.search(said, str(error)), str(error)
            answer = await ask(server.secure_url(wire.port), "inspect", "streams")
            assert answer.code == 1
            assert re.search(said, answer.err), answer.err
            assert len(wire.answered) > 100, "the server never showed its certificate"
            assert seen_in(wire) == []
    finally:
        server.close()


async def refusal(url: str) -> TransportError:
    """How a connection is refused, without any spelling of the password."""
    transport = open_transport(url)
    try:
        with pytest.raises(TransportError) as caught:
            await transport.connect()
    finally:
        await transport.close()
    for spelling in (PASSWORD, quote(PASSWORD, safe="")):
        assert spelling not in f"{caught.value!r} {caught.value.__cause__!r}"
    return caught.value


async def test_a_server_that_speaks_only_an_old_version_of_tls_is_refused(
    server_binary: ServerBinary, folder: Path
) -> None:
    server = SecureServer(server_binary, issue(folder, "localhost"))
    try:
        server.open("--tls-protocols", "TLSv1.1", "--tls-ciphers", "DEFAULT:@SECLEVEL=0")
        assert await asyncio.to_thread(version_spoken, server.tls_port) == "TLSv1.1", "the server speaks nothing at all"
        async with relay(server.tls_port) as wire:
            error = await refusal(server.secure_url(wire.port))
            too_old = "protocol version|unsupported protocol|UNSUPPORTED_PROTOCOL|legacy sigalg"
            assert re.search(too_old, str(error)), str(error)
            assert seen_in(wire) == []
    finally:
        server.close()


def version_spoken(port: int) -> str | None:
    """What a client that takes anything agrees on with a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
        return secure.version()


async def test_a_url_without_tls_on_a_port_with_tls_says_so(secure_server: SecureServer) -> None:
    error = await refusal(secure_server.secure_url(scheme="redis"))

    assert "TLS" in str(error)
    assert "rediss://" in str(error)


async def test_a_url_with_tls_on_a_port_without_says_so_and_sends_nothing(secure_server: SecureServer) -> None:
    secure_server.client(password=PASSWORD).config_set("port", str(port := free_port()))
    async with relay(port) as wire:
        error = await refusal(secure_server.secure_url(wire.port))
        assert "TLS" in str(error)
        assert seen_in(wire) == []


async def test_a_client_shows_its_own_certificate_where_the_server_asks_for_one(
    server_binary: ServerBinary, folder: Path
) -> None:
    server = SecureServer(server_binary, issue(folder, "localhost"))
    try:
        server.open("--tls-auth-clients", "yes")
        assert re.search("ask for a certificate|certificate required", str(await refusal(server.secure_url())))
        own = {"ssl_certfile": server.files.certificate, "ssl_keyfile": server.files.key}
        async with App("shop", broker=server.secure_url(**own)) as app:
            assert await app.publish(Order(text=SECRET))
    finally:
        server.close()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "No such file"),
        ("ssl_certfile=/nowhere/cert.pem", "No such file"),
        ("ssl_cert_reqs=perhaps", "'ssl_cert_reqs'"),
        ("ssl_shoe_size=7", "'ssl_shoe_size'"),
    ],
)
def test_an_option_that_cannot_work_is_a_mistake_of_the_program_and_not_tried_for_ever(option: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        open_transport(f"rediss://:{quote(PASSWORD, safe='')}@localhost/0?{option}")


def test_options_of_tls_on_a_url_without_it_are_a_mistake_and_not_ignored() -> None:
    with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
        open_transport("redis://localhost/0?ssl_ca_certs=/etc/ca.pem")


async def test_sentinels_and_the_primary_that_they_name_are_reached_by_tls(
    secure_server: SecureServer, tmp_path: Path
) -> None:
    port, files = free_port(), secure_server.files
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {tmp_path}\ntls-replication yes\ntls-auth-clients no\n"
        f"tls-cert-file {files.certificate}\ntls-key-file {files.key}\ntls-ca-cert-file {files.authority}\n"
        f"sentinel monitor main 127.0.0.1 {secure_server.tls_port} 1\nsentinel auth-pass main {PASSWORD}\n"
        f"requirepass {PASSWORD}2\n"
    )
    process = start_sentinel(secure_server.binary, config)
    try:
        async with relay(port) as wire:
            url = secure_server.secure_url(wire.port, "rediss+sentinel", sentinel_password=quote(f"{PASSWORD}2"))
            async with connected(url.replace("/0?", "/main?")) as app:
                assert await app.publish(Order(text=SECRET))
            assert len(wire.sent) > 100
            assert seen_in(wire) == []
    finally:
        process.kill()
        process.wait()


def start_sentinel(binary: ServerBinary, config: Path) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([binary.path, config, "--sentinel"], stdout=log, stderr=log)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[App]:
    """An app whose sentinel may still be starting."""
    deadline = asyncio.get_running_loop().time() + 15
    while True:
        try:
            async with App("shop", broker=url) as app:
                yield app
                return
        except TransportError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
