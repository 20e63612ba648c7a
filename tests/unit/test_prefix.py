"""Path prefixes: the contract's rules and the stores' own."""

from datetime import date

import pytest

from app.domain import prefix

VALUES = prefix.sample_values(date(2026, 1, 31)) | {"COLLECTION_NAME": "My results"}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("", "f.txt"),
        ("/", "f.txt"),
        ("a", "a/f.txt"),
        ("a/", "a/f.txt"),
        ("/a/b/", "a/b/f.txt"),
        ("%DATE%", "2026_01_31/f.txt"),
        ("x-%COLLECTION_ID%/%RESULT_SET_ID%", "x-000000000000/0/f.txt"),
        ("%COLLECTION_NAME%", "My results/f.txt"),
        ("100%/50% of all", "100%/50% of all/f.txt"),
        ("Größe/結果", "Größe/結果/f.txt"),
    ],
)
def test_prefix_and_file_name_are_joined_by_exactly_one_slash(given: str, key: str) -> None:
    assert prefix.why_refused(given) is None
    assert prefix.key(given, VALUES, "f.txt") == key


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("%FOO%", "%FOO%"),
        ("%date%", "%date%"),
        ("a/%COLLECTION%", "%COLLECTION%"),
        ("%DATE2%", "%DATE2%"),
        ("a/" * 250 + "a", "too many folders"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("a\ufffeb", "control"),
        ("../a", ". or .."),
        ("a/./b", ". or .."),
        ("a/..", ". or .."),
        ("//a", "empty"),
        ("a//b", "empty"),
        ("a//", "empty"),
        ("a\\b", "\\"),
        ("a./b", "dot"),
        (".well-known/acme-challenge/x", "acme"),
        ("a" * 701, "too long"),
        ("%COLLECTION_NAME%" * 3, "too long"),
        ("é" * 351, "too long"),
    ],
)
def test_what_no_store_takes_is_refused_with_its_reason(given: str, word: str) -> None:
    reason = prefix.why_refused(given)
    assert reason
    assert word in reason


def test_the_longest_accepted_prefix_leaves_room_for_a_file_name_everywhere() -> None:
    assert prefix.why_refused("a" * 700) is None
    assert len(prefix.key("a" * 700, VALUES, "b" * 255).encode()) < 1023


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b", "a-b"),
        ("../../etc", "..-..-etc"),
        ("..", "-"),
        (".", "-"),
        ("", "-"),
        ("a\r\nb", "a--b"),
        ("a\\b", "a-b"),
        ("%DATE%", "%DATE%"),
    ],
)
def test_a_collection_name_cannot_change_the_folder(name: str, safe: str) -> None:
    assert prefix.safe_name(name) == safe
    assert prefix.key("x/%COLLECTION_NAME%", VALUES | {"COLLECTION_NAME": name}, "f") == f"x/{safe}/f"


def test_a_collection_name_is_cut_at_a_whole_character() -> None:
    assert len(prefix.safe_name("é" * 200).encode()) == 254
