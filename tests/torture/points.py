"""The named points at which a daemon kills itself: between claim, call and record of every stage.

They are patched into a child's process; the program knows nothing of them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

Hit = Callable[[str], None]

POINTS: Final = (
    "start.claims_voided",
    "start.interrupted_found",
    "start.before_the_doors",
    "intake.before_the_commit",
    "intake.committed",
    "routing.claimed",
    "routing.planning",
    "routing.planned",
    "placement.starting",
    "placement.intent",
    "placement.sending",
    "placement.sent",
    "placement.reply",
    "placement.recording",
    "placement.recorded",
    "polling.claimed",
    "polling.sent",
    "polling.reply",
    "polling.recording",
    "polling.recorded",
    "sms_watch.claimed",
    "sms_watch.reply",
    "sms_watch.recording",
    "sms_watch.recorded",
    "refilling.journaled",
    "refilling.intent",
    "refilling.sent",
    "refilling.reply",
    "refilling.recording",
    "refilling.recorded",
    "refilling.followed",
    "canceling.journaled",
    "canceling.intent",
    "canceling.sent",
    "canceling.reply",
    "canceling.recording",
    "canceling.recorded",
    "dripping.making",
    "dripping.made",
    "remainders.making",
    "remainders.made",
    "recovery.noted",
    "recovery.sending",
    "recovery.answered",
    "sequencing.numbering",
    "sequencing.committed",
    "delivery.claimed",
    "delivery.sent",
    "delivery.recording",
    "delivery.recorded",
    "catalogue_sync.recording",
    "catalogue_sync.recorded",
)
"""Between claim, call and record of every stage: `…ing` is inside the transaction, before its commit."""


def _wrap(owner: Any, name: str, hit: Hit, *, before: str = "", after: str = "", when: Any = lambda _: True) -> None:
    """Put points around a function, plain or async; `when` sees the result."""
    real = getattr(owner, name)
    if asyncio.iscoroutinefunction(real):

        @functools.wraps(real)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                hit(before)
            result = await real(*args, **kwargs)
            if after and when(result):
                hit(after)
            return result

        setattr(owner, name, wrapped)
        return

    @functools.wraps(real)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if before:
            hit(before)
        result = real(*args, **kwargs)
        if after and when(result):
            hit(after)
        return result

    setattr(owner, name, plain)


def install(hit: Hit) -> None:
    """Patch every point into this process."""
    from aggregator import daemon, outbound
    from aggregator.flow import delivery, placement, recovery, refilling, wishes
    from aggregator.flow.canceling import Canceling
    from aggregator.flow.catalogue_sync import CatalogueSync
    from aggregator.flow.delivery import Delivery
    from aggregator.flow.dripping import Dripping
    from aggregator.flow.intake import Intake
    from aggregator.flow.placement import Placement
    from aggregator.flow.polling import Polling
    from aggregator.flow.reconcile import Reconcile
    from aggregator.flow.refilling import Refilling
    from aggregator.flow.remainders import Remainders
    from aggregator.flow.routing import Routing
    from aggregator.flow.sequencing import Sequencing
    from aggregator.flow.sms_watch import SmsWatch
    from aggregator.providers.gateway import Gateway
    from aggregator.storage import attempts, claims, outbox

    some: Callable[[Any], bool] = bool
    _wrap(claims, "void_all", hit, after="start.claims_voided")
    _wrap(Reconcile, "_find_interrupted", hit, after="start.interrupted_found")
    _wrap(daemon, "start_sites", hit, before="start.before_the_doors")
    _wrap(Intake, "take", hit, before="intake.before_the_commit", after="intake.committed")
    _wrap(Routing, "_route", hit, before="routing.claimed")
    _wrap(attempts, "plan", hit, after="routing.planning")
    _wrap(Routing, "_plan", hit, after="routing.planned")
    _wrap(attempts, "start", hit, after="placement.starting")
    _wrap(Placement, "_start", hit, after="placement.intent", when=lambda started: started is not None)
    _wrap(placement, "write_result", hit, after="placement.recording")
    _wrap(Placement, "_record", hit, after="placement.recorded")
    _wrap(Gateway, "statuses", hit, before="polling.claimed", after="polling.reply")
    _wrap(Polling, "_record", hit, after="polling.recording")
    _wrap(Polling, "_poll", hit, after="polling.recorded")
    _wrap(SmsWatch, "_check", hit, before="sms_watch.claimed", after="sms_watch.recorded")
    _wrap(Gateway, "sms_code", hit, after="sms_watch.reply")
    _wrap(SmsWatch, "_record", hit, after="sms_watch.recording")
    _wrap(refilling, "request", hit, after="refilling.journaled", when=lambda reason: reason is None)
    _wrap(Gateway, "refills", hit, before="refilling.intent", after="refilling.reply")
    _wrap(Refilling, "_record_asked", hit, after="refilling.recording")
    _wrap(Refilling, "_ask", hit, after="refilling.recorded")
    _wrap(Gateway, "refill_statuses", hit, after="refilling.followed")
    _wrap(wishes, "_journal", hit, after="canceling.journaled")
    _wrap(Gateway, "cancels", hit, before="canceling.intent", after="canceling.reply")
    _wrap(Canceling, "_record", hit, after="canceling.recording")
    _wrap(Canceling, "_ask", hit, after="canceling.recorded")
    _wrap(Dripping, "_make_run", hit, after="dripping.making")
    _wrap(Dripping, "_guarded", hit, after="dripping.made")
    _wrap(Remainders, "_consider", hit, after="remainders.making", when=lambda said: said.startswith("order "))
    _wrap(Remainders, "run_once", hit, after="remainders.made", when=some)
    _wrap(attempts, "note_resend", hit, after="recovery.noted")
    _wrap(recovery, "send", hit, before="recovery.sending", after="recovery.answered")
    _wrap(outbox, "sequence", hit, after="sequencing.numbering", when=some)
    _wrap(Sequencing, "run_once", hit, after="sequencing.committed", when=some)
    _wrap(Delivery, "_deliver", hit, before="delivery.claimed")
    _wrap(outbound.Outbound, "deliver", hit, after="delivery.sent")
    _wrap(delivery, "record", hit, after="delivery.recording", when=lambda recorded: bool(recorded.ended))
    _wrap(Delivery, "_recorded", hit, after="delivery.recorded")
    _wrap(CatalogueSync, "_record", hit, after="catalogue_sync.recording")
    _wrap(CatalogueSync, "sync", hit, after="catalogue_sync.recorded")
    _wrap(Gateway, "add", hit, after="placement.reply")
    _wrap(Gateway, "add_sms", hit, after="placement.reply")
    _watch_wire(hit)


_SENDING: Final = (
    (b"action=add", "placement"),
    (b"action=refill", "refilling"),
    (b"action=cancel", "canceling"),
    (b"action=status", "polling"),
)


def _watch_wire(hit: Hit) -> None:
    """The moments around the bytes of a request: just before they leave, and when the kernel has them."""
    from aiohttp.http_writer import StreamWriter

    real = StreamWriter.write

    async def write(self: StreamWriter, chunk: Any, *args: Any, **kwargs: Any) -> None:
        said = bytes(chunk)
        stage = next((stage for words, stage in _SENDING if words in said), None)
        if stage == "placement":
            hit("placement.sending")
        await real(self, chunk, *args, **kwargs)
        if stage is not None:
            hit(f"{stage}.sent")

    StreamWriter.write = write  # type: ignore[method-assign]
