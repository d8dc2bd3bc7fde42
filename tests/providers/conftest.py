"""Mocked HTTP for tests of provider accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientResponse
from aioresponses import CallbackResult, aioresponses


class _MockedResponse(ClientResponse):
    """What aiohttp ≥ 3.14 wants and aioresponses 0.7.9 does not give (its issue 289): a `stream_writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


class Mock(aioresponses):
    """aioresponses, whose answers are of a class that the current aiohttp can make."""

    def add(self, url: Any, *args: Any, **kwargs: Any) -> None:
        super().add(url, *args, **{"response_class": _MockedResponse, **kwargs})

    def serve(self, url: str, answer: Callable[[dict[str, str]], Mapping[str, Any] | BaseException]) -> None:
        """From now on a function of the form answers: keywords of an answer (`payload`, `status`…), or an error."""

        def callback(_url: Any, **kwargs: Any) -> CallbackResult:
            given = answer(dict(kwargs["data"]))
            if isinstance(given, BaseException):
                raise given
            return CallbackResult(**{"response_class": _MockedResponse, **given})

        self.post(url, callback=callback, repeat=True)

    @property
    def forms(self) -> list[dict[str, str]]:
        """The forms of all requests so far, in their order per address."""
        return [dict(call.kwargs["data"]) for calls in self.requests.values() for call in calls]


@pytest.fixture
def mock() -> Iterator[Mock]:
    """Every request of aiohttp's client is answered by the test; one that it does not expect is refused."""
    mocked = Mock()
    with mocked:
        yield mocked
