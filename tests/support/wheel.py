"""Builds the package as it would be released and tries it out: `python -m tests.support.wheel`.

The archive of the sources is built from the checkout and the wheel from that archive, so that a file missing
from the archive is noticed. The wheel goes into a new environment that borrows the dependencies of this one,
so that nothing is downloaded and the checkout is out of sight.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Runs inside the new environment, in an empty folder.
TRIAL = """
import importlib.resources, pathlib, sys
import newsletter
from newsletter import resources

home = pathlib.Path(sys.prefix).resolve()
places = {"the package": pathlib.Path(newsletter.__file__), "templates": resources.templates_dir(),
          "content": resources.content_dir()}
for what, place in places.items():
    assert place.resolve().is_relative_to(home), f"{what} came from outside the wheel: {place}"
assert any(resources.templates_dir().rglob("*.html")), "the wheel holds no template"
assert any(resources.content_dir().rglob("sequence.yaml")), "the wheel holds no sequence"
migrations = importlib.resources.files("newsletter") / "store" / "migrations"
assert migrations.joinpath("env.py").is_file(), "the wheel holds no migrations/env.py"
assert any(each.name.endswith(".py") for each in migrations.joinpath("versions").iterdir()), "no migration"
"""


def main() -> None:
    """Build, install and try the wheel; the built files are left in `dist/`."""
    dist = ROOT / "dist"
    with tempfile.TemporaryDirectory(prefix="newsletter-wheel-") as folder:
        workshop = Path(folder)
        source = _unpack(_build("sdist", root=ROOT, into=dist), into=workshop)
        wheel = _build("wheel", root=source, into=dist)
        environment = _environment_with(wheel, workshop / "environment")
        outside = workshop / "outside"
        outside.mkdir()
        _run(environment / "bin" / "python", "-c", TRIAL, cwd=outside)
        help_text = _run(environment / "bin" / "newsletter", "--help", cwd=outside)
        _run(environment / "bin" / "python", "-m", "newsletter", "--help", cwd=outside)
        if "demo" not in help_text:
            message = f"`newsletter --help` does not mention the demo:\n{help_text}"
            raise SystemExit(message)
    print(f"{wheel.relative_to(ROOT)} is complete, and its commands run")  # noqa: T201 - this is a command


def _build(target: str, *, root: Path, into: Path) -> Path:
    before = {path: path.stat().st_mtime_ns for path in into.glob("newsletter-*")}
    _run(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", into, cwd=root)
    (built,) = (path for path in into.glob("newsletter-*") if before.get(path) != path.stat().st_mtime_ns)
    return built


def _unpack(archive: Path, *, into: Path) -> Path:
    shutil.unpack_archive(archive, into)
    return into / archive.name.removesuffix(".tar.gz")


def _environment_with(wheel: Path, place: Path) -> Path:
    """Make an environment that holds the wheel, and behind it what is installed in ours.

    A path in a .pth file is searched for packages, but .pth files in *that* place are not read: the editable
    install of the checkout stays out of sight.
    """
    _run(sys.executable, "-m", "venv", "--without-pip", place)
    paths = {"base": str(place), "platbase": str(place)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "borrowed.pth").write_text("\n".join(sorted(ours)) + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python", "--disable-pip-version-check")
    # `--ignore-installed`: the editable install that shows through must be neither kept nor touched.
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel)
    return place


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    finished = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    if finished.returncode != 0:
        words = " ".join(map(str, command))
        message = f"{words} ended with {finished.returncode}:\n{finished.stdout}{finished.stderr}"
        raise SystemExit(message)
    return finished.stdout


if __name__ == "__main__":
    main()
