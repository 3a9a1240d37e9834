"""A real mail server on loopback that keeps a ledger and misbehaves on request.

    with SmtpServer() as server:
        server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
        ...                      # send to server.url
        assert [received.recipient for received in server.ledger] == ["maria@example.org"]

It is the other side's own account of what happened: a message stands in `ledger` before its 250 leaves, and
nothing is ever taken out. Without a script it is a well-behaved server. A script names a stage, and the steps
to take there instead of the usual reply:

    banner, ehlo, helo, starttls, auth, mail, rcpt, data, rset, noop, quit      on that command
    body      after the first bytes of a message have come
    dot       after a message is complete. The ledger has it by then, unless a step replies with 4xx or 5xx,
              or `keep=False` says that it is lost

Steps: `Reply`, `Raw`, `Delay`, `Do`, `Drip`, `Endless`, `Hang`, `Close`, `Reset`. They run in order; where none
says anything or ends the connection (so after `Delay` and `Do`), the usual reply follows.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import shutil
import socket
import ssl
import struct
import threading
import time
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

Security = Literal["none", "starttls", "implicit"]

STAGES = (
    "banner",
    "ehlo",
    "helo",
    "starttls",
    "auth",
    "mail",
    "rcpt",
    "data",
    "body",
    "dot",
    "rset",
    "noop",
    "quit",
)
EXTENSIONS = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 10485760")
MESSAGE_ID = re.compile(rb"^message-id:\s*(<[^>\r\n]*>)", re.IGNORECASE | re.MULTILINE)


# --- what it can be told to do --------------------------------------------------------------------


class Step(Protocol):
    """Something that the server does in a conversation. `speaks`: the usual reply is not due any more."""

    speaks: ClassVar[bool]

    def take(self, session: Session) -> None:
        """Do it."""


@dataclass(frozen=True)
class Reply:
    """One proper reply; a line break in the text makes it a longer one."""

    code: int
    text: str = ""
    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        *before, last = self.text.split("\n")
        lines = [f"{self.code}-{text}" for text in before] + [f"{self.code} {last}"]
        session.send("".join(f"{line}\r\n" for line in lines).encode())


@dataclass(frozen=True)
class Raw:
    """Exactly these bytes."""

    data: bytes
    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        session.send(self.data)


@dataclass(frozen=True)
class Drip:
    """These bytes one at a time, with a pause after each."""

    data: bytes
    seconds: float
    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        for byte in self.data:
            session.send(bytes([byte]))
            session.sleep(self.seconds)


@dataclass(frozen=True)
class Endless:
    r"""The same bytes again and again, until the client goes away or so many have left.

    `Endless(b"250-more\r\n")` is a reply without end, `Endless(b"2")` a line without end.
    """

    data: bytes
    limit_bytes: int = 64 * 1024 * 1024
    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        block = self.data * max(1, 65536 // len(self.data))
        for _ in range(max(1, self.limit_bytes // len(block))):
            session.send(block)


@dataclass(frozen=True)
class Delay:
    """Nothing, for a while; then what comes next."""

    seconds: float
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        session.sleep(self.seconds)


@dataclass(frozen=True)
class Do:
    """Something else happens, anywhere; then what comes next."""

    action: Callable[[], object]
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        del session
        self.action()


@dataclass(frozen=True)
class Hang:
    """Nothing ever again, with the connection open."""

    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        session.sleep(None)


@dataclass(frozen=True)
class Close:
    """An end of the connection: FIN, or RST where the client's bytes were not all read. What was said leaves first."""

    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        session.flush()
        raise Finished


@dataclass(frozen=True)
class Reset:
    """A connection torn down (RST)."""

    speaks: ClassVar[bool] = True

    def take(self, session: Session) -> None:
        # A lingering time of zero makes close send RST.
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Finished


@dataclass
class Script:
    """What to do at a stage instead of the usual, and how often.

    Attributes:
        stage: one of `STAGES`.
        steps: in their order.
        times: how often it applies; None for ever.
        when: which command lines it applies to (for data, body and dot: the RCPT line).
        keep: at the dot, whether the message goes into the ledger; None: unless a step refuses it.
    """

    stage: str
    steps: Sequence[Step]
    times: int | None
    when: Callable[[str], bool]
    keep: bool | None


# --- what it remembers ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Received:
    """One message for which the server took responsibility.

    Attributes:
        content: the message, dots unstuffed, with its last CRLF and without the terminator.
        wire: the same as it came, dots stuffed.
        connection: the number of the connection, from 1.
        at: business time does not matter here: the machine's time, UTC.
        monotonic: `time.monotonic()`, comparable between the processes of one machine.
    """

    peer: tuple[str, int]
    connection: int
    encrypted: bool
    sender: str
    recipient: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)
    wire: bytes = field(repr=False)
    message_id: str
    at: datetime
    monotonic: float


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One line that a client sent outside a message body."""

    connection: int
    encrypted: bool
    line: str


@dataclass(frozen=True, kw_only=True)
class Login:
    """One attempt at logging in."""

    connection: int
    encrypted: bool
    mechanism: str
    user: str
    password: str
    accepted: bool


# --- the server -----------------------------------------------------------------------------------


class SmtpServer:
    """A scriptable SMTP server in threads of this process. See the module's text.

    Attributes:
        gathers: replies leave together once no command is waiting (RFC 2920, 3.2), or each by itself.

    Args:
        security: no TLS, STARTTLS offered, or TLS from the first byte.
        certificate: by default one signed by nobody but itself, for localhost, 127.0.0.1 and ::1.
        users: passwords by user; where given, AUTH is offered and MAIL is refused without it.
        extensions: what EHLO offers besides STARTTLS and AUTH. Commands in one go are understood in any case.
        host: a loopback address.
        port: 0 picks a free one.
    """

    def __init__(
        self,
        *,
        security: Security = "none",
        certificate: Certificate | None = None,
        users: Mapping[str, str] | None = None,
        extensions: Sequence[str] = EXTENSIONS,
        mechanisms: str = "PLAIN LOGIN",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.security = security
        self.users = dict(users or {})
        self.extensions = list(extensions)
        self.mechanisms = mechanisms
        self.host = host
        self.port = port
        self.ledger: list[Received] = []
        self.heard: list[Heard] = []
        self.logins: list[Login] = []
        self.connections = 0
        self.gathers = False
        self.stopping = threading.Event()
        self._certificate = certificate
        self._scripts: list[Script] = []
        self._lock = threading.Lock()
        self._sessions: dict[threading.Thread, Session] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    # Starting and stopping

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. After a `stop` the same port is taken again, and the ledger goes on."""
        if self.security != "none" and self._certificate is None:
            folder = mkdtemp(prefix="smtp-server-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._certificate = make_certificate(Path(folder))
        self.stopping = threading.Event()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, self.port), family=family, backlog=256)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="smtp-server", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Tear every connection down and let the port go."""
        self.stopping.set()
        if self._listener is not None and self._acceptor is not None:
            # shutdown wakes the accepting thread; close alone does not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._acceptor.join()
        self.drop_connections()
        for thread in list(self._sessions):
            thread.join()

    def drop_connections(self) -> None:
        """Tear every open connection down, as a crash of the server would."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.tear_down()

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None and not self.stopping.is_set():
            try:
                connected, peer = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                session = Session(self, connected, peer=(peer[0], peer[1]), number=self.connections)
                thread = threading.Thread(target=self._serve, args=(session,), daemon=True)
                self._sessions[thread] = session
            thread.start()

    def _serve(self, session: Session) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                self._sessions.pop(threading.current_thread(), None)

    # Telling it what to do

    def script(
        self,
        stage: str,
        *steps: Step,
        times: int | None = None,
        when: Callable[[str], bool] = lambda line: True,
        keep: bool | None = None,
    ) -> None:
        """Take these steps at a stage. Of several scripts that apply, the first given comes first."""
        if stage not in STAGES:
            message = f"No stage {stage!r}: {', '.join(STAGES)}."
            raise ValueError(message)
        with self._lock:
            self._scripts.append(Script(stage=stage, steps=steps, times=times, when=when, keep=keep))

    def forget_scripts(self) -> None:
        """Behave well from now on."""
        with self._lock:
            self._scripts.clear()

    def take_script(self, stage: str, line: str) -> Script | None:
        """Find the script that applies now, and count it."""
        with self._lock:
            for script in self._scripts:
                if script.stage == stage and script.times != 0 and script.when(line):
                    if script.times is not None:
                        script.times -= 1
                    return script
        return None

    # Asking it what happened

    @property
    def url(self) -> str:
        """A MAIL_URL for this server, with the first user's login and the options it takes to reach it."""
        scheme = "smtps" if self.security == "implicit" else "smtp"
        login = "".join(f"{quote(u, safe='')}:{quote(p, safe='')}@" for u, p in list(self.users.items())[:1])
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = "" if self.security == "none" else f"?tls=required&cafile={quote(str(self.cafile))}"
        return f"{scheme}://{login}{host}:{self.port}{options}"

    @property
    def cafile(self) -> Path:
        """What a client must trust."""
        return self.certificate.path

    @property
    def certificate(self) -> Certificate:
        """The certificate in use."""
        if self._certificate is None:
            message = "This server has no certificate."
            raise ValueError(message)
        return self._certificate

    @property
    def open_connections(self) -> int:
        """How many connections are served at this moment."""
        with self._lock:
            return len(self._sessions)

    @property
    def commands(self) -> list[str]:
        """The verbs of all lines heard, in order and in capitals."""
        return [heard.line.split(" ")[0].upper() for heard in self.heard]

    def wait_for(self, condition: Callable[[SmtpServer], object], *, seconds: float = 5) -> None:
        """Wait until a condition on the ledger and its like holds.

        Raises:
            TimeoutError: it did not.
        """
        until = time.monotonic() + seconds
        while not condition(self):
            if time.monotonic() > until:
                message = f"Nothing of the kind within {seconds} s."
                raise TimeoutError(message)
            time.sleep(0.002)


class Finished(Exception):
    """The connection has come to its end."""


class Session:
    """One connection, from the server's side."""

    def __init__(self, server: SmtpServer, connected: socket.socket, *, peer: tuple[str, int], number: int) -> None:
        self.server = server
        self.socket = connected
        self.peer = peer
        self.number = number
        self.encrypted = False
        self.authenticated = False
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.last_rcpt = ""
        self._unread = bytearray()
        self._held = bytearray()
        self._answers: dict[str, Callable[[str], None]] = {
            "EHLO": self._ehlo,
            "HELO": self._agree,
            "NOOP": self._agree,
            "RSET": self._rset,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "QUIT": self._quit,
        }

    def run(self) -> None:
        """Serve the client to the end."""
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.server.security == "implicit":
                self._encrypt()
            self._answer("banner", "", Reply(220, "test.example ESMTP"))
            while True:
                self._command(self._read_line().decode("utf-8", errors="surrogateescape"))
        except (Finished, OSError):
            pass
        finally:
            self.socket.close()

    def tear_down(self) -> None:
        """End the connection from another thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    # Commands

    def _command(self, line: str) -> None:
        self.server.heard.append(Heard(connection=self.number, encrypted=self.encrypted, line=line))
        verb = line.partition(" ")[0].upper()
        answer = self._answers.get(verb)
        if answer is None:
            Reply(500, "5.5.2 What?").take(self)
        else:
            answer(line)

    def _ehlo(self, line: str) -> None:
        self._answer("ehlo", line, Reply(250, "\n".join(["test.example", *self._offers()])))

    def _agree(self, line: str) -> None:
        self._answer(line.partition(" ")[0].lower(), line, Reply(250, "2.0.0 Ok"))

    def _rset(self, line: str) -> None:
        self._forget_envelope()
        self._agree(line)

    def _quit(self, line: str) -> None:
        self._answer("quit", line, Reply(221, "2.0.0 Bye"))
        raise Finished

    def _offers(self) -> list[str]:
        offers = list(self.server.extensions)
        if self.server.security == "starttls" and not self.encrypted:
            offers.append("STARTTLS")
        if self.server.users:
            offers.append(f"AUTH {self.server.mechanisms}")
        return offers

    def _starttls(self, line: str) -> None:
        if self.server.security != "starttls" or self.encrypted:
            Reply(502, "5.5.1 Not here").take(self)
        elif self._answer("starttls", line, Reply(220, "2.0.0 Go ahead")):
            self._encrypt()

    def _encrypt(self) -> None:
        self.socket = self.server.certificate.server_context().wrap_socket(self.socket, server_side=True)
        self.encrypted = True
        self._unread.clear()
        self.authenticated = False

    def _auth(self, line: str) -> None:
        mechanism = line.split(" ")[1].upper() if " " in line else ""
        script = self.server.take_script("auth", line)
        if script is not None and self._run(script.steps):
            return
        words: list[str] = []
        try:
            if mechanism == "PLAIN":
                initial = line.split(" ")[2] if line.count(" ") > 1 else self._challenge("")
                words = base64.b64decode(initial, validate=True).decode().split("\0")[1:]
            elif mechanism == "LOGIN":
                for prompt in ("Username:", "Password:"):
                    words.append(base64.b64decode(self._challenge(prompt), validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            words = []
        user, password = words if len(words) == 2 else ("", "")
        self.authenticated = self.server.users.get(user) == password and user != ""
        self.server.logins.append(
            Login(
                connection=self.number,
                encrypted=self.encrypted,
                mechanism=mechanism,
                user=user,
                password=password,
                accepted=self.authenticated,
            )
        )
        answer = Reply(235, "2.7.0 Welcome") if self.authenticated else Reply(535, "5.7.8 Not you")
        answer.take(self)

    def _challenge(self, prompt: str) -> str:
        Reply(334, base64.b64encode(prompt.encode()).decode()).take(self)
        return self._read_line().decode("ascii", errors="replace")

    def _mail(self, line: str) -> None:
        path = re.match(r"MAIL FROM:<([^>]*)>", line, re.IGNORECASE)
        if self.server.users and not self.authenticated:
            usual = Reply(530, "5.7.0 Authentication required")
        elif path is None:
            usual = Reply(501, "5.5.4 No such syntax")
        elif self.sender is not None:
            usual = Reply(503, "5.5.1 Nested MAIL")
        else:
            usual = Reply(250, "2.1.0 Ok")
        if self._answer("mail", line, usual) and path is not None:
            self.sender = path[1]

    def _rcpt(self, line: str) -> None:
        path = re.match(r"RCPT TO:<([^>]+)>", line, re.IGNORECASE)
        if self.sender is None:
            usual = Reply(503, "5.5.1 MAIL first")
        elif path is None:
            usual = Reply(501, "5.5.4 No such syntax")
        else:
            usual = Reply(250, "2.1.5 Ok")
        self.last_rcpt = line
        if self._answer("rcpt", line, usual) and path is not None:
            self.recipients.append(path[1])

    def _data(self, line: str) -> None:
        usual = Reply(354, "Go ahead") if self.recipients else Reply(503, "5.5.1 RCPT first")
        if not self._answer("data", self.last_rcpt, usual):
            return
        wire = self._read_message()
        script = self.server.take_script("dot", self.last_rcpt)
        steps = script.steps if script else ()
        keep = script.keep if script else None
        if keep is None:
            keep = not any(isinstance(step, Reply) and step.code >= 400 for step in steps)
        if keep:
            self._enter(wire)
        self._forget_envelope()
        if not self._run(steps):
            Reply(250, "2.0.0 Taken").take(self)

    def _read_message(self) -> bytes:
        """Read up to the terminator, which is CRLF.CRLF and nothing else."""
        self._unread[:0] = b"\r\n"  # so that a terminator right at the start is found, too
        if len(self._unread) == 2:
            self._receive()
        script = self.server.take_script("body", self.last_rcpt)
        self._run(script.steps if script else ())
        searched = 0
        while (end := self._unread.find(b"\r\n.\r\n", searched)) < 0:
            searched = max(0, len(self._unread) - 4)
            self._receive()
        wire = bytes(self._unread[2 : end + 2])
        del self._unread[: end + 5]
        return wire

    def _enter(self, wire: bytes) -> None:
        content = re.sub(rb"^\.", b"", wire)
        content = content.replace(b"\r\n.", b"\r\n")
        message_id = MESSAGE_ID.search(content.partition(b"\r\n\r\n")[0])
        self.server.ledger.append(
            Received(
                peer=self.peer,
                connection=self.number,
                encrypted=self.encrypted,
                sender=self.sender or "",
                recipient=self.recipients[0],
                recipients=tuple(self.recipients),
                content=content,
                wire=wire,
                message_id=message_id[1].decode("ascii", errors="replace") if message_id else "",
                at=datetime.now(UTC),
                monotonic=time.monotonic(),
            )
        )

    def _forget_envelope(self) -> None:
        self.sender = None
        self.recipients = []

    # Scripts

    def _answer(self, stage: str, line: str, usual: Reply) -> bool:
        """Reply as scripted or as usual, and say whether it was, or may have been taken as, a yes."""
        script = self.server.take_script(stage, line)
        if script is None or not self._run(script.steps):
            usual.take(self)
            return usual.code < 400
        return not any(isinstance(step, Reply) and step.code >= 400 for step in script.steps)

    def _run(self, steps: Sequence[Step]) -> bool:
        """Take the steps, and say whether one of them spoke."""
        for step in steps:
            step.take(self)
        return any(step.speaks for step in steps)

    # Bytes

    def send(self, data: bytes) -> None:
        """Write all of it, or hold it back where a command is waiting whose reply may go with it."""
        self._held += data
        if not (self.server.gathers and b"\r\n" in self._unread):
            self.flush()

    def flush(self) -> None:
        """Write what was held back."""
        self.socket.sendall(self._held)
        self._held.clear()

    def sleep(self, seconds: float | None) -> None:
        """Wait, or end with the server."""
        if self.server.stopping.wait(seconds):
            raise Finished

    def _read_line(self) -> bytes:
        while (end := self._unread.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line

    def _receive(self) -> None:
        received = self.socket.recv(256 * 1024)
        if not received:
            raise Finished
        self._unread += received


# --- certificates ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate that signed itself, and its key, in one PEM file each."""

    path: Path
    key_path: Path

    def server_context(self) -> ssl.SSLContext:
        """What a server needs to show it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key_path)
        return context


def make_certificate(
    folder: Path, *, names: Sequence[str] = ("localhost", "127.0.0.1", "::1"), days: int = 30
) -> Certificate:
    """Make a certificate for host names and addresses in `folder`; with negative `days` it is out of date."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SMTP test server")])
    expires = datetime.now(UTC) + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(expires - timedelta(days=90))
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(path=folder / "certificate.pem", key_path=folder / "key.pem")
    made.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
