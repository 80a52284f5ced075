"""What values the settings take, and what is said of those that they do not."""

import os

import pytest

from app.errors import ConfigurationError
from app.settings import load_settings


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("warn", "warning"),
        ("WARNING", "warning"),
        ("Trace", "debug"),
        ("critical", "error"),
        ("fatal", "error"),
        ("info", "info"),
    ],
)
def test_the_log_levels_of_other_programs_are_understood(value: str, level: str) -> None:
    assert load_settings({"log_level": value}).log_level == level


def test_a_log_level_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"LOG_LEVEL='loud': .*'debug', 'info', 'warning' or 'error'"):
        load_settings({"log_level": "loud"})


@pytest.mark.parametrize("token", ["größer", "two words", "tab\there", "nul\0", "木", " \n", "a\u00a0b", "\x7f"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^API_TOKEN: no client can send this in a header") as caught:
        load_settings({"api_token": token})
    assert token not in str(caught.value) or not token.strip()


@pytest.mark.parametrize("token", ["s3cret", "a:b", "x" * 200, "!#$%&'*+-.^_`|~/=", " s3cret\n"])
def test_a_token_that_a_header_carries(token: str) -> None:
    secret = load_settings({"api_token": token}).api_token
    assert secret is not None and secret.get_secret_value() == token.strip()


def test_an_empty_token_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "API_TOKEN", "")
    assert load_settings().api_token is None
