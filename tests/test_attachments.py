"""Names and media types of others in the headers of a download."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.attachments import LONGEST_NAME, disposition, file_name, served_as


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("brief.md", 'attachment; filename="brief.md"'),
        ("out/2026/brief.md", 'attachment; filename="brief.md"'),  # folders are ours to tell, not a disk's to make
        ("../../x", 'attachment; filename="x"'),
        ("..\\..\\x.exe", 'attachment; filename="x.exe"'),
        ("a\r\nSet-Cookie: b=c", 'attachment; filename="aSet-Cookie_ b=c"'),
        ("…/ü.html", "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%BC.html"),
        ("u\N{COMBINING DIAERESIS}.txt", "attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt"),
        ('a"; filename="b', 'attachment; filename="a_; filename=_b"'),
        ("100%41.txt", "attachment; filename=\"100_41.txt\"; filename*=UTF-8''100%2541.txt"),
        ("invoice\N{RIGHT-TO-LEFT OVERRIDE}fdp.exe", 'attachment; filename="invoicefdp.exe"'),
        (".htaccess", 'attachment; filename="htaccess"'),
        ("a.", 'attachment; filename="a"'),
        ("", 'attachment; filename="file"'),
        ("..", 'attachment; filename="file"'),
        ("\N{ZERO WIDTH SPACE}/", 'attachment; filename="file"'),
    ],
)
def test_a_name_becomes_a_header(name: str, header: str) -> None:
    assert disposition(name) == header


@pytest.mark.parametrize("letter", ["a", "ü", "語"])
def test_a_long_name_is_cut_and_keeps_its_ending(letter: str) -> None:
    name = file_name(f"{letter * 251}.csv")
    assert name.endswith(f"{letter}.csv")
    assert LONGEST_NAME - 3 <= len(name.encode()) <= LONGEST_NAME
    assert len(file_name(f"a.{letter * 253}").encode()) <= LONGEST_NAME


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_whatever_a_name_is_the_header_is_one_line_with_one_name(name: str) -> None:
    header = disposition(name)
    found = re.fullmatch(
        r"attachment; filename=\"([ !#-\[\]-~]+)\"(?:; filename\*=UTF-8''([\w.~%-]+))?", header, re.ASCII
    )
    assert found
    saved = unquote(found[2]) if found[2] else found[1]
    assert saved == file_name(name)
    assert not set(saved) & set('/\\<>:"|?*\r\n\0')
    assert len(saved.encode()) <= LONGEST_NAME
    assert saved.strip(" .") == saved
    assert file_name(saved) == saved


@pytest.mark.parametrize(
    "inert", ["text/plain", "text/csv", "image/png", "application/json", "application/pdf", "audio/mpeg",
              "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"]
)  # fmt: skip
def test_what_does_nothing_is_sent_as_it_is(inert: str) -> None:
    assert served_as(inert) == inert


@pytest.mark.parametrize(
    "active", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "text/javascript", "text/css",
               "application/wasm", "multipart/mixed", "application/x-shockwave-flash", "x/y", "text/plain\r\nA: b",
               "application/vnd.mozilla.xul+xml", ""]
)  # fmt: skip
def test_what_a_browser_would_run_or_show_is_sent_as_bytes(active: str) -> None:
    assert served_as(active) == "application/octet-stream"
