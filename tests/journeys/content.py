"""A content folder that is quick to publish: three letters that end, and a note that repeats."""

from pathlib import Path

SERIES = "three"
NOTE = "note"
STEPS = ("first-stone", "second-stone", "third-stone")

FILES = {
    "sequences/three/sequence.yaml": "title: Three letters\nstart: first_slot\non_finish: stop\n",
    "sequences/three/01-first-stone.md": "---\nsubject: The first stone\n---\nHello,\n\nOne stone.\n",
    "sequences/three/02-second-stone.md": "---\nsubject: The second stone\n---\nHello,\n\nTwo stones.\n",
    "sequences/three/03-third-stone.md": "---\nsubject: The third stone\n---\nHello,\n\nThree stones.\n",
    "sequences/note/sequence.yaml": "title: A note a week\nstart: first_slot\non_finish: repeat\n",
    "sequences/note/01-lamp.md": "---\nsubject: A lamp\n---\nHello,\n\nA lamp is on.\n",
    "sequences/note/02-bench.md": "---\nsubject: A bench\n---\nHello,\n\nA bench is free.\n",
    "affirmations.yaml": "- {key: slowly, text: I can go slowly.}\n",
    "related-posts.yaml": "[]\n",
    "help-lines.yaml": '"*":\n  - {name: Helplines, kind: crisis, hours: varies, web: https://findahelpline.com}\n',
}


def write_content(folder: Path) -> Path:
    """Write it into a folder, and return that."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
