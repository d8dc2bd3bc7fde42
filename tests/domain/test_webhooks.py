"""The rules of webhooks: signatures that the reference library takes, waits that only grow, who is told of what."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from aggregator.config import WebhookSettings
from aggregator.domain.webhooks import Answer, headers, next_try, read_status, takers

KEYS = [bytes([number]) * 32 for number in (1, 2)]
BODY = b'{"type":"order.placed","timestamp":"2026-11-21T18:00:00.000Z","data":{"text":"\\u00e4"}}'
NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)
DEFAULT_RETRY_S = WebhookSettings.model_fields["retry_s"].default


def webhook(key: bytes) -> Webhook:
    return Webhook("whsec_" + base64.b64encode(key).decode())


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS])
def test_every_key_makes_a_signature_that_the_reference_library_verifies(keys: list[bytes]) -> None:
    sent = headers("evt_1", datetime.now(UTC), BODY, keys)
    assert sent["webhook-signature"].count("v1,") == len(keys)
    for key in keys:
        assert webhook(key).verify(BODY, sent)["type"] == "order.placed"


def test_another_key_or_another_body_does_not_verify() -> None:
    sent = headers("evt_1", datetime.now(UTC), BODY, KEYS[:1])
    for key, body, changed in (
        (KEYS[1], BODY, sent),
        (KEYS[0], BODY + b" ", sent),
        (KEYS[0], BODY, {**sent, "webhook-id": "evt_2"}),
    ):
        with pytest.raises(WebhookVerificationError):
            webhook(key).verify(body, changed)


def test_the_timestamp_is_whole_seconds_of_the_try() -> None:
    sent = headers("evt_1", NOW + timedelta(milliseconds=999), BODY, KEYS)
    assert sent["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert sent["webhook-id"] == "evt_1"
    assert sent["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.DELIVERED),
        (204, Answer.DELIVERED),
        (299, Answer.DELIVERED),
        (301, Answer.FAILED),
        (400, Answer.FAILED),
        (404, Answer.FAILED),
        (410, Answer.GONE),
        (429, Answer.FAILED),
        (500, Answer.FAILED),
        (None, Answer.FAILED),
    ],
)
def test_what_a_status_means(status: int | None, answer: Answer) -> None:
    assert read_status(status) is answer


def tries_of(retry_s: list[float], jitters: list[float]) -> list[datetime]:
    """When each try of an event happens that always fails and is tried the moment it is due."""
    at, times = NOW, [NOW]
    for tries, jitter in enumerate(jitters):
        following = next_try(retry_s, tries=tries, now=at, first_failure=NOW, jitter=jitter)
        if following is None:
            break
        at = following
        times.append(at)
    return times


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_the_default_retries_stretch_over_at_least_75_hours(jitters: list[float]) -> None:
    times = tries_of(list(DEFAULT_RETRY_S), jitters)
    assert len(times) == len(DEFAULT_RETRY_S) + 1
    assert times[-1] - times[0] >= timedelta(hours=75)


@given(
    st.lists(st.floats(0.01, 1e6), min_size=1, max_size=10),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_jitter_only_lengthens_and_by_a_tenth_at_most(retry_s: list[float], jitters: list[float]) -> None:
    times = tries_of(retry_s, jitters)
    assert len(times) == len(retry_s) + 1
    for wait_s, earlier, later in zip(retry_s, times, times[1:], strict=False):
        microsecond = 1e-6
        assert wait_s - microsecond <= (later - earlier).total_seconds() <= wait_s * 1.1 + microsecond


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"), [(None, 300), (10, 300), (301, 301), (86_400, 86_400), (1e9, 86_400)]
)
def test_retry_after_only_lengthens_and_a_day_at_most(retry_after_s: float | None, wait_s: float) -> None:
    following = next_try([5, 300], tries=1, now=NOW, first_failure=NOW, jitter=0, retry_after_s=retry_after_s)
    assert following == NOW + timedelta(seconds=wait_s)


def test_extra_tries_do_not_bring_the_end_nearer() -> None:
    early = NOW + timedelta(seconds=100)
    assert next_try([5, 300], tries=7, now=early, first_failure=NOW, jitter=0) == NOW + timedelta(seconds=305)
    late = NOW + timedelta(seconds=305)
    assert next_try([5, 300], tries=7, now=late, first_failure=NOW, jitter=0) is None


PATTERNS = {"all": ("*",), "orders": ("order.*",), "codes": ("sms.code", "webhook.parked"), "hooks": ("webhook.*",)}


@pytest.mark.parametrize(
    ("event_type", "data", "told"),
    [
        ("order.placed", {}, ["all", "orders"]),
        ("sms.code", {}, ["all", "codes"]),
        ("sms.expired", {}, ["all"]),
        ("webhook.parked", {"endpoint": "all", "type": "order.placed"}, ["codes", "hooks"]),
        ("webhook.parked", {"endpoint": "elsewhere", "type": "order.placed"}, ["all", "codes", "hooks"]),
        ("webhook.parked", {"endpoint": "elsewhere", "type": "webhook.parked"}, []),
        ("webhook.disabled", {"endpoint": "hooks", "type": "order.placed"}, ["all"]),
        ("webhook.test", {"endpoint": "orders"}, ["orders"]),
    ],
)
def test_who_is_told(event_type: str, data: dict[str, object], told: list[str]) -> None:
    assert takers(PATTERNS, event_type, data) == told
