"""The two dialects by name. Decides how one call is answered: key, idempotency, action, and the words of a refusal.

Nothing here awaits and nothing knows HTTP, so a call is served wholly or not at all, with or without a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import hstockplus, panel_v2
from .account import Account
from .ledger import Call
from .refusals import Reason, Refusal
from .world import Replay, World

BUYING = frozenset({"add", "add_sms", "refill", "cancel"})
"""Actions that change something: only by POST, as both documents say."""
_IDEMPOTENT = frozenset({"add", "add_sms"})


@dataclass(frozen=True, slots=True)
class _Dialect:
    actions: Mapping[str, Callable[[World, Account, Call], object]]
    words: Callable[[Account, Refusal], str]


_DIALECTS: Mapping[str, _Dialect] = {
    "panel_v2": _Dialect(panel_v2.ACTIONS, panel_v2.words),
    "hstockplus": _Dialect(hstockplus.ACTIONS, hstockplus.words),
}

ACTIONS = frozenset(action for dialect in _DIALECTS.values() for action in dialect.actions)
"""Every action of either document."""


def answer(world: World, key: str, call: Call, *, may_change: bool = True) -> object:
    """The JSON of the reply to one call; without `may_change` (a GET) an action that changes something is unknown."""
    account = world.accounts[call.account]
    if key != account.settings.key:
        return {"error": "Invalid API key"}
    if not account.settings.enabled:
        return {"error": "Your account is inactive"}
    honoured = account.settings.honours_idempotency_key and call.action in _IDEMPOTENT
    if call.idempotency_key is None or not honoured:
        return _reply(world, account, call, may_change)
    slot = (call.account, call.action, call.idempotency_key)
    if slot in world.replays:
        replay = world.replays[slot]
        return (
            replay.body if replay.params == call.params else {"error": "Idempotency-Key was used for another request"}
        )
    before = len(world.ledger)
    body = _reply(world, account, call, may_change)
    if len(world.ledger) > before:
        world.replays[slot] = Replay(dict(call.params), body)
    return body


def _reply(world: World, account: Account, call: Call, may_change: bool) -> object:
    dialect = _DIALECTS[account.dialect]
    try:
        action = dialect.actions.get(call.action)
        if action is None or (call.action in BUYING and not may_change):
            raise Refusal(Reason.ACTION)
        return action(world, account, call)
    except Refusal as refusal:
        return {"error": dialect.words(account, refusal)}
