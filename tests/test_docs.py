"""Agreement of the documents with the code: commands, settings, messages and links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import make_architecture
import make_cli
import pytest
from imports import COMMAND, SERVING, Half
from support.paths import PROJECT, REPOSITORY

from denzel import errors
from denzel.cli import main
from denzel.project.dotenv import KEYS

ROOT = REPOSITORY
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])

# A function that raises a message it was given: which of its arguments that is.
_RAISES_ITS_ARGUMENT = {"_raise_failed": 2}

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_SOURCE = re.compile(r"(app|denzel)/[\w./]+")
_COMMAND = re.compile(r"(?<![\w/.-])denzel ([a-z][\w-]*)((?: +(?:--?[a-z][\w-]*|[\w.:/-]+))*)")


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the tables of a page whose first column has this heading."""
    rows: list[list[str]] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == heading:
            inside = True
        elif inside and not set(line) <= set("|- "):
            rows.append(cells)
    return rows


def test_the_command_line_page_matches_the_help_of_the_commands() -> None:
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "type: make docs"


def test_the_picture_of_the_packages_matches_the_imports() -> None:
    assert make_architecture.PICTURE.read_text(encoding="utf-8") == make_architecture.picture(), "type: make docs"


def test_every_setting_is_documented_and_no_other() -> None:
    documented = [row[0].strip("`") for row in table(DOCS / "settings.md", "key")]
    assert documented == list(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_a_setting_is_documented_with_its_default_and_what_is_allowed(name: str) -> None:
    _, meaning, default, allowed, _ = next(
        row for row in table(DOCS / "settings.md", "key") if row[0].strip("`") == name
    )
    assert meaning
    assert default.startswith(f"`{KEYS[name].default}`" if KEYS[name].default else "empty")
    assert allowed == KEYS[name].allowed


@pytest.mark.parametrize(("half", "heading"), [(COMMAND, "`denzel/`"), (SERVING, "`app/serving/`")])
def test_the_map_of_the_house_has_every_package_and_no_other(half: Half, heading: str) -> None:
    shown = [name for row in table(ROOT / "CONTRIBUTING.md", f"in {heading}") for name in _CODE.findall(row[0])]
    assert sorted(shown) == sorted(half.packages)


@each_page
def test_every_module_and_folder_that_a_page_names_is_there(page: Path) -> None:
    """Those of the command and of the serving code, by their paths."""
    named = [code for code in _CODE.findall(page.read_text(encoding="utf-8")) if _SOURCE.fullmatch(code)]
    assert [path for path in named if not (ROOT / path).exists() and not (PROJECT / path).exists()] == []


def anchors(page: Path) -> set[str]:
    """The fragments that lead to the headings of a page, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(text):
        target, _, fragment = match["target"].partition("#")
        if target.startswith(("https://", "http://")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{match['target']} in {page.name}"
        if fragment:
            assert fragment in anchors(path), f"{match['target']} in {page.name}"


def shown_commands(text: str) -> list[tuple[str, list[str]]]:
    """Every `denzel` command in the text of a page, with its arguments: those to type, and those in hints."""
    fenced = "\n".join(match["text"] for match in _FENCE.finditer(text)).splitlines()
    typed = [line for line in fenced if line.startswith(("$ ", "Hint: ", "Next: "))]
    named = [code for code in _CODE.findall(_FENCE.sub("", text)) if code.startswith("denzel ")]
    return [(match[1], match[2].split()) for match in _COMMAND.finditer("\n".join([*typed, *named]))]


@each_page
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    for name, arguments in shown_commands(page.read_text(encoding="utf-8")):
        assert name in main.commands
        command = main.commands[name]
        if isinstance(command, click.Group) and arguments and arguments[0] in command.commands:
            command = command.commands[arguments[0]]
        known = {"--help", "-h"}.union(*([*option.opts, *option.secondary_opts] for option in command.params))
        assert {argument for argument in arguments if argument.startswith("-")} <= known, name


def test_the_commands_shown_are_found() -> None:
    shown = shown_commands(
        "`denzel stop`\n\n```console\n$ denzel launch --api-port 8000 --no-wait\n  denzel - UP\n```\n"
    )
    assert shown == [("launch", ["--api-port", "8000", "--no-wait"]), ("stop", [])]


def test_every_command_is_explained_somewhere_beyond_its_help() -> None:
    told = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "cli.md")
    assert [name for name in main.commands if not re.search(rf"(denzel |`){name}\b", told)] == []


def raised_messages() -> list[tuple[str, str]]:
    """Every message with which the code raises a DenzelError: a pattern for it, and the name of the error."""
    kinds = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}
    found = []
    for path in sorted((ROOT / "denzel").glob("**/*.py")):
        if "templates" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in kinds:
                position = 0
            elif called in _RAISES_ITS_ARGUMENT:
                position = _RAISES_ITS_ARGUMENT[called]
            elif called == "__init__" and path.name == "errors.py":
                position, called = 0, "CommandFailed"
            else:
                continue
            pattern = _pattern(node.args[position])
            if pattern is not None:
                found.append((pattern, called))
    return found


def _pattern(message: ast.expr) -> str | None:
    """A pattern for the text of a string literal or an f-string; None for anything else."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return re.escape(message.value)
    if isinstance(message, ast.JoinedStr):
        return "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in message.values
        )
    return None


def documented_messages() -> list[str]:
    rows = table(DOCS / "troubleshooting.md", "what you see")
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row[0])]


def test_the_messages_are_found() -> None:
    found = {kind for _, kind in raised_messages()}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.DenzelError) and kind is not errors.DenzelError:
            assert name in found or (name == "ServiceFailed" and "_raise_failed" in found), name


@pytest.mark.parametrize(("pattern", "kind"), sorted(set(raised_messages())))
def test_every_error_of_the_tool_is_in_the_table(pattern: str, kind: str) -> None:
    shown = documented_messages()
    assert any(re.fullmatch(pattern, message) for message in shown), f"{kind}: {pattern}"


def test_the_table_has_no_error_that_does_not_exist() -> None:
    patterns = [pattern for pattern, _ in raised_messages() if pattern != ".*"]
    assert [said for said in documented_messages() if not any(re.fullmatch(each, said) for each in patterns)] == []


def test_the_rows_of_the_table_have_a_cause_and_a_remedy() -> None:
    for row in table(DOCS / "troubleshooting.md", "what you see"):
        assert len(row) == 3, row
        assert all(row), row
