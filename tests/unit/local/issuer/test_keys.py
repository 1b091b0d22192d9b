import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apirule.local.issuer import keys
from apirule.local.issuer.clients import Algorithm
from apirule.problem import SetupError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEEP = timedelta(minutes=6)


def ring() -> keys.Ring:
    return keys.Ring(next=keys.generate(Algorithm.ES256), active=keys.generate(Algorithm.ES256))


def kids(one: keys.Ring, now: datetime) -> list[str]:
    return [key.kid for key in one.published(now)]


def test_a_key_is_published_before_it_signs_and_after_it_signed() -> None:
    first = ring()
    fresh = keys.generate(Algorithm.ES256)

    second = first.rotate(fresh, NOW, KEEP)

    assert second.active is first.next
    assert second.next is fresh
    assert kids(second, NOW) == [first.next.kid, fresh.kid, first.active.kid]
    assert kids(second, NOW + KEEP) == [first.next.kid, fresh.kid]


def test_retired_keys_do_not_pile_up() -> None:
    one = ring()
    for hours in range(5):
        one = one.rotate(keys.generate(Algorithm.ES256), NOW + timedelta(hours=hours), KEEP)

    assert len(one.retired) == 1


def test_the_key_set_holds_no_private_part() -> None:
    document = keys.key_set({Algorithm.ES256: ring()}, NOW)

    assert all(
        key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"} for key in document["keys"]
    )


def test_keys_are_kept_in_a_private_file(tmp_path: Path) -> None:
    rings = {Algorithm.ES256: ring().rotate(keys.generate(Algorithm.ES256), NOW, KEEP)}

    keys.save(tmp_path, rings)
    loaded = keys.load(tmp_path)

    path = tmp_path / keys.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert kids(loaded[Algorithm.ES256], NOW) == kids(rings[Algorithm.ES256], NOW)
    assert [one.name for one in tmp_path.iterdir()] == [keys.FILE]


def test_what_is_missing_is_made_and_then_kept(tmp_path: Path) -> None:
    keys.save(tmp_path, {Algorithm.ES256: ring()})

    first = keys.load_or_create(tmp_path)
    second = keys.load_or_create(tmp_path)

    assert set(first) == set(Algorithm)
    assert {k: v.active.kid for k, v in first.items()} == {
        k: v.active.kid for k, v in second.items()
    }


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.save(tmp_path, {Algorithm.ES256: ring()})
    (tmp_path / keys.FILE).chmod(0o644)

    with pytest.raises(SetupError, match="can be read by other users"):
        keys.load(tmp_path)


@pytest.mark.parametrize("member", ["n", "p"])
def test_an_rsa_key_that_signs_wrongly_is_refused(tmp_path: Path, member: str) -> None:
    keys.load_or_create(tmp_path)
    path = tmp_path / keys.FILE
    stored = json.loads(path.read_text())
    number = stored["RS256"]["active"][member]
    stored["RS256"]["active"][member] = ("A" if number[40] != "A" else "B").join(
        (number[:40], number[41:])
    )
    path.write_text(json.dumps(stored))

    with pytest.raises(SetupError, match="is damaged"):
        keys.load(tmp_path)


def test_an_rsa_key_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    keys.load_or_create(tmp_path)
    path = tmp_path / keys.FILE
    stored = json.loads(path.read_text())
    del stored["RS256"]["next"]["qi"]
    path.write_text(json.dumps(stored))

    with pytest.raises(SetupError, match="is damaged: an RSA key lacks qi"):
        keys.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", json.dumps({"RS256": {}}), json.dumps({"XX": {}})])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / keys.FILE
    path.touch(0o600)
    path.write_text(content)

    with pytest.raises(SetupError, match="is damaged"):
        keys.load(tmp_path)
