"""Where the templates and the content that come with the program lie.

In an installed wheel they are data of the package; in a checkout, which an editable install points to as
well, they are the folders `templates/` and `content/` beside it.
"""

from pathlib import Path


def templates_dir() -> Path:
    """Return the folder of the templates that come with the program.

    Raises:
        FileNotFoundError: The program was installed without them.
    """
    return _folder("templates")


def content_dir() -> Path:
    """Return the folder of the sequences and other content that come with the program.

    Raises:
        FileNotFoundError: The program was installed without it.
    """
    return _folder("content")


def _folder(name: str) -> Path:
    package = Path(__file__).resolve().parent
    packaged = package / "_data" / name
    if packaged.is_dir():
        return packaged
    # Some other package may well have left a folder of this name in site-packages: only the one beside our
    # pyproject.toml is ours.
    beside = package.parent / name
    if beside.is_dir() and (package.parent / "pyproject.toml").is_file():
        return beside
    message = (
        f"The folder {name}/ that comes with newsletter was not found: neither {packaged} nor, "
        f"in a checkout, {beside} exists. Install newsletter again, or name a folder of your own in "
        f"NEWSLETTER_{name.upper()}_DIR."
    )
    raise FileNotFoundError(message)
