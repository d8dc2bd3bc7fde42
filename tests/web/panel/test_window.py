"""What all callers are shown alike: worked out once for those who ask at the same time, and never kept for long."""

from __future__ import annotations

import asyncio

import pytest

from aggregator.web.panel.window import Window
from tests.web.panel.support import SMM, STOCK, PanelDoors


async def test_who_asks_at_the_same_time_is_shown_the_same() -> None:
    window, went_on, count = Window(keep_s=60), asyncio.Event(), 0

    async def work_out() -> int:
        nonlocal count
        count += 1
        await went_on.wait()
        return count

    asked = [asyncio.create_task(window.look("services", work_out)) for _ in range(5)]
    await asyncio.sleep(0)
    asked[0].cancel()  # who hangs up takes nothing from the others
    went_on.set()
    assert await asyncio.gather(*asked[1:]) == [1] * 4
    assert await window.look("services", work_out) == 1
    assert await window.look("projects", work_out) == 2


async def test_what_is_too_old_or_failed_is_worked_out_again() -> None:
    window, answers = Window(keep_s=0), iter((1, 2, None, 3))

    async def work_out() -> int:
        answer = next(answers)
        if answer is None:
            raise OSError("away")
        return answer

    assert [await window.look("services", work_out) for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="away"):
        await window.look("services", work_out)
    assert await window.look("services", work_out) == 3


async def test_each_document_has_its_own_shape_of_the_same_list(sqlite_doors: PanelDoors) -> None:
    smm, stock = await asyncio.gather(*(sqlite_doors.panel("services", key=key) for key in (SMM, STOCK)))
    assert [row["service"] for row in smm] == [row["service"] for row in stock["services"]]
