"""Bugs of reconciliation: verdicts that were no proofs, ids that were somebody else's, repetitions nobody promised."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from aggregator.domain import evidence
from aggregator.domain.evidence import Trust, Verdict
from aggregator.flow import reconcile, recovery
from aggregator.flow.reconcile import Reconcile
from aggregator.flow.recovery import repeat_under_keys
from aggregator.providers.gateway import Gateway
from aggregator.storage import books
from tests.simulation.focus import Focus
from tests.simulation.planted.bug import LOST, SOON_S, Bug, swap


def silence_is_proof(stack: ExitStack) -> None:
    swap(stack, reconcile, "verdict", lambda *_, **__: Verdict.NOT_BOUGHT)


def no_settle_time(stack: ExitStack) -> None:
    """Two unmoved readings prove it, however soon after the sending."""
    swap(stack, evidence, "settled_at", lambda evidence, sent_at, settle: sent_at)


def account_of_many_believed(stack: ExitStack) -> None:
    """The balance of an account that others use as well is taken for a proof."""
    swap(stack, Trust, "enough", property(lambda self: self.debits_seen >= evidence.DEBITS_TO_TRUST))


def debits_never_seen(stack: ExitStack) -> None:
    """A provider of which nobody knows when it debits is believed."""
    swap(stack, Trust, "enough", property(lambda self: self.exclusive_account))


def late_debit_forgiven(stack: ExitStack) -> None:
    """What was learned of a provider's debits stays though one came late."""
    swap(stack, books, "distrust_debits", lambda *_: None)


def unclear_refunds_forgotten(stack: ExitStack) -> None:
    """An unclear purchase that is paid back hides the debit of another."""
    swap(stack, books, "may_be_refunded_unseen", lambda *_: [])


def rivals_forgotten(stack: ExitStack) -> None:
    """An id that two purchases could be of is given to the first."""
    swap(stack, books, "_MAY_MASK", ("placing",))


def refusal_before_the_key_believed(stack: ExitStack) -> None:
    """A refusal that a provider gives before it looks at the key ends the purchase."""
    swap(stack, recovery, "_BEFORE_THE_KEY", frozenset())


def repeated_without_a_promise(stack: ExitStack) -> None:
    """Repeats under the key at providers of which nobody said that they honour it."""
    real = Reconcile._look

    async def look(self: Reconcile, gateway: Gateway) -> None:
        await repeat_under_keys(self._house, gateway)
        await real(self, gateway)

    swap(stack, Reconcile, "_look", look)


_OURS: Final = {
    "exclusive_account": True,
    "idempotent_add": False,
    "recover_ids": False,
    "timeout_s": 5,
    "settle_s": 60,
}
_PROOFS: Final = Focus(
    services=("plus", "followers"),
    orders=2,
    chaos=("heal_some",),
    faults=LOST,
    providers=_OURS,
    accounts={"refuse_active_link": False},
    settle_s=SOON_S,
)

BUGS: Final = (
    Bug("silence is proof", silence_is_proof, "^lost purchase", _PROOFS, first=1),
    Bug(
        "verdict without settle time",
        no_settle_time,
        "^lost purchase",
        replace(_PROOFS, faults=("accept_late",), trusted=True),
        first=3,
    ),
    Bug(
        "verdict without an exclusive account",
        account_of_many_believed,
        "^lost purchase",
        replace(_PROOFS, providers={**_OURS, "exclusive_account": False}, trusted=True, stranger=True),
        first=1,
    ),
    Bug(
        "verdict without enough debits seen",
        debits_never_seen,
        "^lost purchase",
        replace(_PROOFS, lags_s=(600.0,)),
        first=1,
    ),
    Bug(
        "learned trust not reset",
        late_debit_forgiven,
        "trusted all the same",
        replace(_PROOFS, lags_s=(20.0,), trusted=True),
        first=1,
    ),
    Bug(
        "refunds of unclear purchases forgotten",
        unclear_refunds_forgotten,
        "^lost purchase",
        replace(
            _PROOFS,
            services=("odd-code",),
            orders=4,
            cancels=0.0,
            actions=("add_sms",),
            fault_chance=1.0,
            trusted=True,
            stranger=False,
        ),
        first=25,
    ),
    Bug(
        "rivals of an id forgotten",
        rivals_forgotten,
        "^wrong id|^invented",
        replace(
            _PROOFS,
            services=("plus",),
            orders=5,
            quantity=70,
            chaos=("deaf_endpoint",),
            faults=(),
            script=("", "reset_before", "reset_after"),
            providers={**_OURS, "exclusive_account": False, "recover_ids": True, "batch_size": 100, "settle_s": 400},
            accounts={"refuse_active_link": False, "batch": "orders", "visible_after_s": 0.0},
        ),
    ),
    Bug(
        "a refusal before the key believed",
        refusal_before_the_key_believed,
        "^lost purchase",
        replace(
            _PROOFS,
            chaos=("deaf_endpoint",),
            faults=(),
            script=("reset_after",),
            refusals=("Not enough funds on balance",),
            providers={**_OURS, "idempotent_add": True, "settle_s": 15},
        ),
        first=9,
    ),
    Bug("repeated without a promise", repeated_without_a_promise, "^double|^wrong id", _PROOFS, first=1),
)
