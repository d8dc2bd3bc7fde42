"""Settings as the rules want them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aggregator.config import ServiceSettings
from aggregator.domain.guarantees import guarantee_named
from aggregator.domain.refills import RefillPolicy

NO_GUARANTEE: Final = timedelta(days=30)
"""How long an end may be corrected where no refill window says it."""


def guarantee(policy: RefillPolicy | None) -> timedelta:
    """How long after its end an order is still looked at: providers correct ends that they do not guarantee, too."""
    return policy.window if policy is not None and policy.window else NO_GUARANTEE


def refill_policy(service: ServiceSettings | None, offer_name: str = "") -> RefillPolicy | None:
    """The refill rules of a service; None for one that is not, or no longer, a panel service in the config.

    A `window_days` that the config does not state is what the offer's name promises, where it promises something.
    """
    if service is None or service.kind != "smm":
        return None
    settings = service.refill
    window = timedelta(days=settings.window_days)
    if "window_days" not in settings.model_fields_set:
        named = guarantee_named(offer_name)
        window = named if named is not None else window
    return RefillPolicy(
        auto=settings.auto,
        drop_percent=settings.drop_percent,
        window=window,
        cooldown=timedelta(hours=settings.cooldown_h),
        min_age=timedelta(hours=settings.min_age_h),
        check_every=timedelta(hours=settings.check_every_h),
        max_refills=settings.max_refills,
    )
