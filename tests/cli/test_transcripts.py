"""Whole transcripts: what the command is given, and all that it says.

A transcript names the files that there are, the command, and what is expected. NANGUARD_WRITE_TRANSCRIPTS=1 writes the
expected part anew from what the command says now; read the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

TRANSCRIPTS = sorted(Path(__file__).with_name("transcripts").glob("*.txt"))
_SECTION = re.compile(r"^=== (.*)\n", re.MULTILINE)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_command_says_what_the_transcript_says(path: Path, tmp_path: Path, nanguard: Any) -> None:
    """Standard output, standard error and exit code are those of the transcript, to the letter."""
    transcript = path.read_text(encoding="utf-8")
    head, *sections = _SECTION.split(transcript)
    contents = dict(zip(sections[::2], sections[1::2], strict=True))
    command = next(title for title in contents if title.startswith("$ "))
    for name, content in contents.items():
        if name == command:
            break
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_text(content, encoding="utf-8")
    words = shlex.split(command[2:])
    variables = dict(word.split("=", 1) for word in words[: words.index("nanguard")])
    done = nanguard(*words[words.index("nanguard") + 1 :], **variables)
    said = f"=== stdout\n{done.stdout}=== stderr\n{done.stderr}=== exit {done.returncode}\n"
    said = said.replace(str(tmp_path), "FOLDER")
    given, expected = transcript[: transcript.index("=== stdout\n")], transcript[transcript.index("=== stdout\n") :]
    if os.environ.get("NANGUARD_WRITE_TRANSCRIPTS"):
        path.write_text(given + said, encoding="utf-8")
        expected = said
    assert head.strip()
    assert said == expected
