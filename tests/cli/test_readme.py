"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

from tests.cli.llmc_command import llmc
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_tour_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "prompts.txt").write_text("One\nTwo\n")
    plugin, script = blocks("python")
    (tmp_path / "fast_gelu.py").write_text(plugin)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ llmc ")]
    assert len(commands) >= 6
    outputs = {}
    for command in commands:
        words = re.findall(r'"[^"]*"|\S+', command.partition(" > ")[0])
        result = llmc(*(word.strip('"') for word in words[1:]))
        assert result.status == (1 if words[1] == "diff" else 0), result.err
        outputs[command] = result.out
    explained = next(out for command, out in outputs.items() if "--explain" in command)
    assert "approximate: applied to 4 of 4" in explained
    exec(compile(script, "README.md", "exec"), {})


def test_the_excerpt_is_of_a_real_dump(tmp_path: Path) -> None:
    model = ROOT / "examples" / "models" / "gptneox-tiny"
    assert llmc("compile", model, "-o", tmp_path / "engine", "--dump-ir", tmp_path, "-q").status == 0
    dump = (tmp_path / "02-fuse-attention.ir").read_text().splitlines()
    excerpt = next(block for block in blocks("text") if block.startswith("layers.0"))
    assert set(excerpt.splitlines()) <= set(dump)


def test_linked_pages_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
