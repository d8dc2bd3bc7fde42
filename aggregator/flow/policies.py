"""Settings as the rules want them."""

from __future__ import annotations

from datetime import timedelta

from aggregator.config import ServiceSettings
from aggregator.domain.refills import RefillPolicy


def refill_policy(service: ServiceSettings | None) -> RefillPolicy | None:
    """The refill rules of a service; None for one that is not, or no longer, a panel service in the config."""
    if service is None or service.kind != "smm":
        return None
    settings = service.refill
    return RefillPolicy(
        auto=settings.auto,
        drop_percent=settings.drop_percent,
        window=timedelta(days=settings.window_days),
        cooldown=timedelta(hours=settings.cooldown_h),
        min_age=timedelta(hours=settings.min_age_h),
        check_every=timedelta(hours=settings.check_every_h),
        max_refills=settings.max_refills,
    )
