"""The frame itself: the lock files, the packaged folders, the two engines, the tasks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sqlalchemy import create_engine, make_url, text

import newsletter
from newsletter import resources
from tests.support import is_required
from tests.support.browser import BrowserMissingError, find_browser
from tests.support.postgres import Cluster, PostgresMissingError, Server, find_binaries, open_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"
MAKEFILE = ROOT / "Makefile"

# The first version without the named fault. Tools that audit a lock need a network, and are silent without.
ADVISORIES = {
    "h11": ("0.16.0", "CVE-2025-43859: lenient chunked bodies, request smuggling"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time"),
    "jinja2": ("3.1.6", "CVE-2024-56326 and CVE-2025-27516: ways out of the sandbox"),
    "mako": ("1.2.2", "CVE-2022-40023: quadratic time"),
    "python-multipart": ("0.0.22", "CVE-2024-53981 and CVE-2026-24486: denial of service, path traversal"),
    "starlette": ("0.49.1", "CVE-2025-62727 and CVE-2025-54121: denial of service"),
}


@pytest.fixture(scope="module")
def project() -> dict:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def locked(path: Path) -> dict[str, Version]:
    """Return the version of each package in a lock file, by its normalised name."""
    pins = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


class TestLockFiles:
    @pytest.mark.parametrize("path", [RUNTIME_LOCK, DEV_LOCK], ids=lambda path: path.name)
    def test_names_no_host(self, path: Path):
        """A lock file says what to install and leaves it to each machine where from."""
        content = path.read_text(encoding="utf-8")
        assert "://" not in content
        assert "index-url" not in content
        assert "find-links" not in content

    @pytest.mark.parametrize("path", [RUNTIME_LOCK, DEV_LOCK], ids=lambda path: path.name)
    def test_every_package_has_a_hash(self, path: Path):
        """One package without its hash would make pip refuse the whole file."""
        entries = re.split(r"\n(?=[A-Za-z])", path.read_text(encoding="utf-8"))
        packages = [entry for entry in entries if "==" in entry.splitlines()[0]]
        assert packages
        assert [entry.splitlines()[0] for entry in packages if "--hash=sha256:" not in entry] == []

    def test_runtime_lock_satisfies_the_project(self, project: dict):
        """Every dependency is in the runtime lock, in a version that the project accepts."""
        postgres = project["project"]["optional-dependencies"]["postgres"]
        assert_satisfied(project["project"]["dependencies"] + postgres, locked(RUNTIME_LOCK))

    def test_dev_lock_satisfies_the_project(self, project: dict):
        """Every dependency, and every tool of `make test` and `make check`, is in the development lock."""
        groups = project["dependency-groups"]
        wanted = project["project"]["dependencies"] + groups["test"] + groups["dev"]
        assert_satisfied(wanted, locked(DEV_LOCK))

    @pytest.mark.parametrize("path", [RUNTIME_LOCK, DEV_LOCK], ids=lambda path: path.name)
    def test_a_lock_is_complete(self, project: dict, path: Path):
        """A lock is installed without looking for dependencies, so it names them all, those of extras too."""
        wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["postgres"]
        if path == DEV_LOCK:
            wanted += project["dependency-groups"]["test"] + project["dependency-groups"]["dev"]
        assert_satisfied(everything_that_needs(wanted), locked(path))

    @pytest.mark.parametrize("path", [MAKEFILE, ROOT / "README.md"], ids=lambda path: path.name)
    def test_a_lock_is_installed_as_it_stands(self, path: Path):
        """Before 23.3 pip looks for a newer version of what is needed with an extra, and refuses what it finds."""
        commands = [line for line in path.read_text(encoding="utf-8").splitlines() if ".lock" in line]
        installing = [line for line in commands if "pip install" in line]
        assert installing
        assert [line for line in installing if "--no-deps" not in line or "--require-hashes" not in line] == []

    def test_both_locks_agree(self):
        """What is tested is what runs."""
        tested = locked(DEV_LOCK)
        assert {name: tested.get(name) for name in locked(RUNTIME_LOCK)} == locked(RUNTIME_LOCK)

    @pytest.mark.parametrize("name", ADVISORIES)
    def test_is_above_the_known_faults(self, name: str):
        """No locked package has a fault that was published and mended."""
        floor, _fault = ADVISORIES[name]
        assert locked(DEV_LOCK)[name] >= Version(floor)

    def test_scheduler_is_the_stable_line(self):
        """APScheduler 4 is a pre-release of another design."""
        assert locked(RUNTIME_LOCK)["apscheduler"].major == 3


def everything_that_needs(requirements: list[str]) -> list[str]:
    """Return these requirements and all that they need in turn, on this Python and system, by what is installed."""
    found: dict[str, None] = {}
    waiting = list(requirements)
    while waiting:
        text_of = waiting.pop()
        each = Requirement(text_of)
        if text_of in found or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        found[text_of] = None
        for needed in metadata.requires(each.name) or []:
            marker = Requirement(needed).marker
            if not marker or any(marker.evaluate({"extra": extra}) for extra in {"", *each.extras}):
                waiting.append(needed.partition(";")[0])
    return list(found)


def assert_satisfied(requirements: list[str], pins: dict[str, Version]) -> None:
    """Fail with the list of requirements that a lock file does not satisfy."""
    parsed = [Requirement(each) for each in requirements]
    unmet = [
        str(each)
        for each in parsed
        if (pin := pins.get(canonicalize_name(each.name))) is None or pin not in each.specifier
    ]
    assert unmet == []


class TestResources:
    def test_checkout_has_both_folders(self):
        """In a checkout the folders that operators edit are the ones at its top."""
        assert resources.templates_dir() == ROOT / "templates"
        assert resources.content_dir() == ROOT / "content"

    @pytest.mark.parametrize("name", ["templates", "content"])
    def test_wheel_has_its_own_copy(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """An installed package prefers its own data to any folder of that name beside it."""
        packaged = tmp_path / "newsletter" / "_data" / name
        packaged.mkdir(parents=True)
        (tmp_path / name).mkdir()
        monkeypatch.setattr(resources, "__file__", str(tmp_path / "newsletter" / "resources.py"))
        assert getattr(resources, f"{name}_dir")() == packaged

    @pytest.mark.parametrize("name", ["templates", "content"])
    def test_a_stranger_s_folder_is_not_ours(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A folder of the right name beside an installed package belongs to somebody else."""
        (tmp_path / name).mkdir()
        monkeypatch.setattr(resources, "__file__", str(tmp_path / "newsletter" / "resources.py"))
        with pytest.raises(FileNotFoundError, match=f"NEWSLETTER_{name.upper()}_DIR"):
            getattr(resources, f"{name}_dir")()


class TestEngines:
    def test_each_engine_answers(self, database_url: str):
        """The fixture's database is there on both engines, and it is empty."""
        engine = create_engine(database_url)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
            tables = "pg_tables WHERE schemaname = 'public'" if "postgres" in database_url else "sqlite_master"
            assert connection.scalar(text(f"SELECT count(*) FROM {tables}")) == 0
        engine.dispose()

    def test_postgres_is_recent(self, postgres_url: str):
        """The server is one that still gets security fixes, on UTC, with UTF-8."""
        with psycopg.connect(plain(postgres_url)) as connection:
            assert connection.info.server_version >= 150_000
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)

    def test_databases_are_apart(self, postgres: Server, postgres_url: str):
        """What one test writes, no other sees."""
        with psycopg.connect(plain(postgres_url)) as connection:
            connection.execute("CREATE TABLE letters (id int)")
        other = postgres.create_database()
        try:
            with psycopg.connect(plain(other)) as connection:
                assert connection.execute("SELECT to_regclass('letters')").fetchone() == (None,)
        finally:
            postgres.drop_database(other)

    def test_a_template_is_prepared_once(self, postgres: Server):
        """Databases made from a template begin with its tables, and its preparation is paid for once."""
        prepared = []

        def prepare(url: str) -> None:
            prepared.append(url)
            with psycopg.connect(plain(url)) as connection:
                connection.execute("CREATE TABLE letters (id int)")

        for _ in range(2):
            template = postgres.template("frame", prepare)
            copy = postgres.create_database(template=template)
            with psycopg.connect(plain(copy)) as connection:
                assert connection.execute("SELECT count(*) FROM letters").fetchone() == (0,)
            postgres.drop_database(copy)
        assert len(prepared) == 1

    def test_a_crash_keeps_what_was_committed(self, postgres_cluster: Cluster):
        """A private server can crash and recover: committed rows are there, others are not."""
        url = postgres_cluster.create_database()
        connection = psycopg.connect(plain(url))
        connection.execute("CREATE TABLE letters (id int)")
        connection.execute("INSERT INTO letters VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO letters VALUES (2)")
        postgres_cluster.crash()
        assert not postgres_cluster.is_running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
        postgres_cluster.start()
        with psycopg.connect(plain(url)) as connection:
            assert connection.execute("SELECT id FROM letters").fetchall() == [(1,)]

    def test_a_private_server_stops_and_starts(self, postgres_cluster: Cluster):
        """A private server comes back after an orderly stop, with its databases."""
        url = postgres_cluster.create_database()
        postgres_cluster.restart()
        with psycopg.connect(plain(url)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.postgres
    def test_nothing_stays_behind_a_killed_run(self, tmp_path: Path):
        """When the test process is killed, its server and its folder go as well."""
        try:
            find_binaries()
        except PostgresMissingError as error:
            pytest.skip(str(error))
        program = (
            "from tests.support.postgres import *\n"
            "cluster = Cluster(find_binaries())\n"
            "print(cluster._folder, cluster._process.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-c", program]
        killed = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
        folder, server_id = killed.stdout.split()
        wait_until(lambda: not Path(folder).exists())
        assert not is_alive(int(server_id))

    def test_a_named_server_comes_first(self, postgres_url: str):
        """TEST_DATABASE_URL wins over the binaries, and a bare postgresql:// means our driver."""
        bare = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
        server = open_server({"TEST_DATABASE_URL": bare})
        assert not isinstance(server, Cluster)
        made = server.create_database()
        assert made.startswith("postgresql+psycopg://")
        server.drop_database(made)


def plain(url: str) -> str:
    """Return the URL as the driver itself wants it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def wait_until(is_so: Callable[[], bool], *, seconds: float = 15) -> None:
    """Wait until something is so; fail when it never is."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process_id: int) -> bool:
    """Say whether a process runs; one that ended and waits for its parent does not."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process_id}/stat")
    return not (status.exists() and status.read_text(encoding="ascii").rpartition(") ")[2].startswith("Z"))


class TestBrowser:
    def test_shows_a_page(self, browser: Browser):
        """Chromium starts without a screen and without its maker."""
        page = browser.new_page()
        page.set_content("<title>A letter</title><h1>Nine letters on trust</h1>")
        assert page.title() == "A letter"
        assert page.locator("h1").inner_text() == "Nine letters on trust"
        page.close()

    def test_a_named_browser_comes_first(self, tmp_path: Path):
        """CHROMIUM wins over what is on PATH, and a wrong one is an error, not a reason to take another."""
        program = tmp_path / "my-browser"
        program.write_text("#!/bin/sh\n", encoding="ascii")
        program.chmod(0o755)
        assert find_browser({"CHROMIUM": str(program)}) == str(program)
        with pytest.raises(BrowserMissingError, match="my-other"):
            find_browser({"CHROMIUM": str(tmp_path / "my-other"), "PATH": os.environ["PATH"]})

    def test_says_what_is_missing(self, tmp_path: Path):
        """Where there is no browser, the message names what was looked for."""
        with pytest.raises(BrowserMissingError, match="chromium-browser"):
            find_browser({"PATH": str(tmp_path)})


class TestRequired:
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("CI", "true", True),
            ("CI", "false", False),
            ("CI", "", False),
            ("NEWSLETTER_REQUIRE_BROWSER", "1", True),
            ("NEWSLETTER_REQUIRE_BROWSER", "0", False),
            ("NEWSLETTER_REQUIRE_POSTGRES", "1", False),
        ],
    )
    def test_ci_and_the_switch_decide(self, name: str, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch):
        """Only CI and a thing's own switch turn its absence into a failure."""
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.delenv("NEWSLETTER_REQUIRE_BROWSER", raising=False)
        monkeypatch.setenv(name, value)
        assert is_required("browser") is expected


class TestTasks:
    def test_every_target_is_documented(self):
        """`make help` lists each target that CONTRIBUTING.md and the README may name."""
        shown = subprocess.run(
            ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for target in ("demo", "test", "check", "format", "lock", "clean", "help"):
            assert re.search(rf"^  {target}\b", shown, re.MULTILINE), target

    @pytest.mark.parametrize("target", ["demo", "test", "check"])
    def test_each_task_can_be_planned(self, target: str):
        """`make -n` knows every file that a task depends on."""
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)

    def test_documents_name_only_real_targets(self):
        """A `make something` in README.md or CONTRIBUTING.md is a target of the Makefile."""
        targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("README.md", "CONTRIBUTING.md"):
            content = (ROOT / name).read_text(encoding="utf-8")
            named = set(re.findall(r"`make ([a-z][\w-]*)", content)) | set(
                re.findall(r"^\s*make ([a-z][\w-]*)", content, re.MULTILINE)
            )
            assert named
            assert named <= targets, name

    @pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
    def test_ci_script_is_well_formed(self):
        """.ci/run parses, stops at the first fault, and lets nothing be skipped."""
        script = ROOT / ".ci" / "run"
        subprocess.run(["bash", "-n", script], check=True)
        content = script.read_text(encoding="utf-8")
        assert "set -euo pipefail" in content
        assert "NEWSLETTER_REQUIRE_BROWSER=1" in content
        assert "NEWSLETTER_REQUIRE_POSTGRES=1" in content

    def test_version_is_in_the_changelog_s_shape(self):
        """The package's version is a plain one, and the changelog has a place for what comes next."""
        assert re.fullmatch(r"\d+\.\d+\.\d+", newsletter.__version__)
        assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
