"""A small content folder in which everything is right, for tests to break."""

from pathlib import Path

import pytest

SETTINGS = "sequences/trust/sequence.yaml"
LETTER = "sequences/trust/01-welcome.md"

SOUND = {
    SETTINGS: "title: Nine letters on trust\non_finish: {continue_with: weekly-note}\n",
    LETTER: "---\nsubject: Before anything else, you set the pace\n---\nHello {{ site.name }},\n\nSlowly.\n",
    "sequences/weekly-note/sequence.yaml": "on_finish: repeat\n",
    "sequences/weekly-note/01-kept-promise.md": "---\nsubject: A promise of two minutes\n---\nTwo minutes.\n",
    "affirmations.yaml": "- key: go-slowly\n  text: I can go slowly.\n- key: as-i-am\n  text: I am here.\n",
    "related-posts.yaml": (
        "- key: stress-leave\n  title: Stress leave\n  path: /stress-leave\n"
        "- key: toxic-boss\n  title: How to deal with a toxic boss\n  url: https://example.org/boss\n"
        "- key: toxic-love\n  title: Seven signs\n  path: /seven\n  discreet: hide\n"
    ),
    "help-lines.yaml": (
        'US:\n  - {name: Lifeline, kind: crisis, hours: "24/7", phone: 988, web: https://988lifeline.org}\n'
        '"*":\n  - {name: Helplines, kind: crisis, hours: varies, web: https://findahelpline.com}\n'
    ),
}


class ContentFolder:
    """Files below one folder; `root` is what `read_content` is given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path, text in SOUND.items():
            self.write(path, text)

    def write(self, path: str, content: str | bytes | None) -> None:
        """Put a file there, byte for byte; None removes it."""
        file = self.root / path
        if content is None:
            file.unlink()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def folder(tmp_path: Path) -> ContentFolder:
    return ContentFolder(tmp_path / "content")
