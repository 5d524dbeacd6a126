import hashlib
import hmac

import pandas as pd
import pytest

from components.common.environment import PSEUDONYM_KEY
from components.ingest.pseudonyms import pseudonym_key, pseudonyms
from data_schemas.errors import InputError


def test_pseudonym_is_a_keyed_hash():
    expected = hmac.new(b"key", b"123", hashlib.sha256).hexdigest()[:16]
    assert pseudonyms(pd.Series(["123"]), b"key").tolist() == [expected]


def test_key_from_the_environment(monkeypatch):
    monkeypatch.setenv(PSEUDONYM_KEY, "0123456789abcdef")
    assert pseudonym_key() == b"0123456789abcdef"


def test_missing_key_is_refused(monkeypatch):
    monkeypatch.delenv(PSEUDONYM_KEY, raising=False)
    with pytest.raises(InputError, match="missing"):
        pseudonym_key()


def test_short_key_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv(PSEUDONYM_KEY, "hunter2")
    with pytest.raises(InputError, match=PSEUDONYM_KEY) as raised:
        pseudonym_key()
    assert "hunter2" not in str(raised.value)
