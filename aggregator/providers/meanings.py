"""What providers' error sentences mean: why a call was refused. One table, no decisions.

A sentence is listed only as a whole: its canonical form must match one of the patterns from its first word to its last,
beside a polite tail ("please top up…"). A text that merely contains a listed word is generic, because a purchase whose
answer is generic is unclear. Sources: quirks.md, and the error texts of the common panel scripts.
"""

from __future__ import annotations

import re
from typing import Final

from aggregator.providers.contract import Meaning
from aggregator.providers.sentences import canonical, listed

_EVERY: Final = r"(?:per|every|each) (?:# )?(?:second|sec|s|minute|min|hour|day)s?"
"""The span in which requests are counted."""

# Ordered: the first that matches is the meaning.
_MEANINGS: Final[tuple[tuple[Meaning, re.Pattern[str]], ...]] = tuple(
    (meaning, listed(patterns, under_way=meaning is Meaning.ACTIVE_ORDER))
    for meaning, patterns in (
        (
            # {"error": "Invalid API key"}
            Meaning.AUTH,
            (
                r"(?:access |api )*(?:(?:invalid|unknown|inactive|missing|expired|no|revoked) )+(?:api |access )*key"
                r"(?: (?!constraint).*)?",
                r"(?:api |access )?key (?:parameter )?(?:invalid|inactive|not found|not exist|expired|required"
                r"|missing|revoked|empty|not (?:recognized|match))(?: (?:inactive|invalid|account|expired))*",
                r"please (?:provide|enter|use) (?:valid )?(?:api )?key|api key mismatch",
                r"<K>(?:user )?account (?:temporarily )?(?:inactive|locked|frozen|not (?:verified|approved"
                r"|activated|confirmed))(?: .*)?",
                r"<K>user (?:account )?(?:temporarily )?(?:inactive|locked)",
                r"<K>(?:unauthori[sz]ed|unauthenticated|not authori[sz]ed|not authenticated)(?: (?:access"
                r"|request|user))?",
                r"(?:authentication|authori[sz]ation) (?:failed|required|error|invalid)",
                r"invalid (?:api )?(?:credentials|authentication|authorization|login)",
                r"api (?:access )?(?:inactive|not allowed)(?: (?:user|account)(?: user not found)?)?",
                r"(?:ip|ip address)(?: #)? (?:not (?:allowed|whitelisted|authorized)|inactive)",
            ),
        ),
        (
            # `Rate limit reached, please slow down`
            Meaning.RATE_LIMIT,
            (
                r"(?:above |reached |api |request |key )*(?:rate )limit(?: (?:reached|above))?(?: .*)?",
                r"(?:above |reached |api )*(?:request|call|calls) limit (?:reached|above)(?: .*)?",
                r"(?:above|reached) request limit(?: .*)?",
                r"(?:api )?limit request (?:reached|above)",
                r"max request(?: .*)? (?:above|reached)",
                r"<K>(?:# )?(?:api )?(?:limit )?(?:making |sending )?too many (?:api )?(?:request|attempt"
                r"|attempts|calls|order)(?: .*)?",
                r"(?:please )?slow down(?: request)?",
                r"(?:sending )?request(?: sent)?(?: frequency)? too (?:fast|quickly|often|frequent|frequently|high)",
                r"too frequent request",
                r"(?:sending request )?too (?:fast|quickly|frequently)",
                r"(?:request )?(?:throttled|rate limited)(?: .*)?",
                r"(?:please )?wait (?:least )?# (?:seconds?|secs?|s|minutes?|mins?) (?:before|between)(?: .*)?",
                # With the span that requests are counted in: "You can only send 1 request per second".
                rf"(?:only|max)(?: (?:send|make|do|allowed|max))* (?:#|one) (?:api )?(?:request|calls?) {_EVERY}",
                rf"(?:#|one) (?:api )?(?:request|calls?) {_EVERY} (?:allowed|limit|only|max)(?: .*)?",
                rf"(?:above |reached |max |api )*(?:request|calls?) (?:limit {_EVERY}|{_EVERY} limit)"
                r"(?: (?:reached|above)(?: .*)?)?",
                rf"(?:above |reached |max |api )*limit (?:# )?(?:api )?(?:request|calls?) {_EVERY}"
                r"(?: (?:reached|above)(?: .*)?)?",
            ),
        ),
        (
            # `You have active order with this link. Please wait until order being completed.`
            Meaning.ACTIVE_ORDER,
            (
                r"<K>(?:duplicate|duplicated) link",
                r"<K>link (?:duplicate|duplicated|exist|use|already exist)",
                r"<K>(?:already |another |only one )*(?:exist )?active order(?: already)?(?: exist)?(?: per)? <SAME>"
                r"(?: already)?(?: (?:exist|not completed))?",
                r"active order(?: already)? exist|translationkey active order",
                # "Processing order for this link" may be said of the order just taken: with "already" or "same" only.
                r"(?:already|another|exist) (?:already |exist )*<OPENED> order(?: already)?(?: exist)?(?: <SAME>)?",
                r"<OPENED> order(?: already exist)? same (?:link|account|page|post)",
                r"<OPENED> order already(?: exist)?(?: <SAME>)?",
                r"(?:already |another )?(?:exist|unfinished) order(?: <OPENED>)? <SAME>",
                r"another order (?:already )?(?:(?:inprogress|active|pending|processing|running) )?<SAME>"
                r"(?: (?:inprogress|active|pending|processing|running|not completed))?",
                r"(?:already )(?:placed )?order(?: (?:active|inprogress|running|pending|processing|placed))? <SAME>",
                r"order(?: placed)? <SAME> (?:already|still)(?: (?:active|exist|inprogress|running|pending|processing"
                r"|placed|queue|not completed))?",
                r"order already (?:exist|active|inprogress|running|processing|placed) <SAME>",
                r"<SAME> already (?:active order|order|order inprogress|inprogress|processing|use|used|queue"
                r"|ordered|added|exist|running|exist order|processed|pending)",
                r"<SAME> (?:still )?(?:active order|order inprogress|order not completed)",
                r"(?:please )?wait (?:until |completion |finish )*(?:previous |last |first |exist |active )+order"
                r"(?: <SAME>)?(?: completed| finish| finishes)?(?: before .*)?",
                r"(?:previous|last) order(?: <SAME>)? (?:still )?(?:not completed|processing|inprogress|running|active"
                r"|pending)",
                r"(?:multiple|two|simultaneous|several) order <SAME> not allowed",
                r"order exist <SAME>",
            ),
        ),
        (
            # `Not enough funds on balance`
            Meaning.FUNDS,
            (
                r"<K>(?:account )?insufficient (?:account |user |available |balance )?(?:funds|balance)"
                r"(?: (?:balance|account|funds|panel))*",
                r"<K>(?:account |user |available |balance )?(?:funds|balance) (?:insufficient|low|too low|empty"
                r"|negative|too small)(?: .*)?",
                r"<K>(?:no|low|not|out|no enough|no sufficient) (?:account )?(?:funds|balance)"
                r"(?: (?:left|available|account|balance))*",
                r"balance below (?:order|price|cost|charge|required|#)(?: .*)?",
                r"balance not (?:cover|allow).*",
                r"translationkey (?:balance|funds|not funds)",
                r"(?:(?:please |must )(?:topup|recharge|add|deposit|refill)|topup|recharge)"
                r" (?:account )?(?:balance|funds)(?: account)?",
                r"account topup required|insufficient account|(?:order )?(?:cost|price"
                r"|charge) above (?:account )?balance",
                r"(?:số dư không đủ|недостаточно (?:средств|денег)|saldo insuficiente|fondos insuficientes"
                r"|bakiye yetersiz|yetersiz bakiye|solde insuffisant|余额不足)(?: .*)?",
            ),
        ),
        (
            # `Out of stock`, `neworder.error.not_enough_quantity`
            Meaning.STOCK,
            (
                r"<K>(?:<GOODS> )?(?:temporarily )?(?:out|no|no above|not|not available|insufficient|low|empty"
                r"|without) stock(?: (?:available|left|<GOODS>))?",
                r"<K>(?:<GOODS> )?stock (?:insufficient|empty|out|not available|unavailable|above|exhausted)",
                r"translationkey stock",
                r"<K>(?:<GOODS> )?(?:temporarily )?sold out",
                r"<K>insufficient (?:<GOODS> )?(?:quantity|account|product|item|number|phone number)"
                r"(?: (?:available|stock|left))*",
                r"<K>(?:requested )?quantity (?:not available|unavailable|above (?:available|stock))(?: .*)?",
                r"<K>only # (?:\w+ ){0,3}(?:left|available|remaining|remain|stock)",
                r"<K>no (?:available |free )?(?:phone )?(?:number|phone|phones)(?: (?:available|left|stock|free"
                r"|country|project|service|#))*",
                r"<K>no (?:available |free )(?:account|product|item)",
                r"no (?:account|product|item) (?:available|left|stock)",
                r"(?:phone )?number not available",
                r"(?:available )?stock only #",
            ),
        ),
        (
            # `Quantity less than minimal 100`, `neworder.error.min_quantity`
            Meaning.QUANTITY,
            (
                r"<K>(?:please enter )?(?:order )?quantity (?:parameter )?(?:# )?(?:must )?(?:not )?(?:below"
                r"|above|least|between|multiple|low|high|small|large|big)(?: .*)?",
                r"<K>(?:order )?quantity too (?:low|high|small|large|big|much|little)",
                r"<K>(?:order )?quantity (?:cannot|may not|must not) (?:below|above)(?: .*)?",
                r"<K>(?:order )?quantity must (?:divisible|integer|number|positive|whole|numeric|min|max"
                r"|within)(?: .*)?",
                r"<K>(?:order )?quantity (?:not|out|within)(?: (?:within|between|allowed|range|multiple|limits?"
                r"|match))+(?: .*)?",
                r"<K>(?:order )?quantity (?:min|max|limits)(?: (?:#|order|quantity|must|allowed|above"
                r"|below)(?: .*)?)?",
                r"<K>(?:order )?invalid (?:order )?quantity",
                r"<K>(?:order )?quantity invalid",
                r"<K>(?:order )?(?:min|max)(?: order)?(?: quantity)?(?: order)?(?: service)? #"
                r"(?: (?:order|quantity|per|pieces?|allowed|required|service|min|max)(?: .*)?)?",
                r"<K>(?:min|max)(?: order)? quantity(?: order)?(?: (?:not )?(?:reached|met|above|below|allowed"
                r"|must)(?: .*)?)?",
                r"<K>(?:order )?(?:below|above) (?:min|max)(?: (?:quantity|order|allowed|limit|#)(?: .*)?)?",
                r"translationkey (?:quantity|min|max)",
            ),
        ),
        (
            # `Service not found`, `error.incorrect_service_id`
            Meaning.SERVICE,
            (
                r"<K>(?:invalid|unknown|inactive|no|cannot find) <SERVICE>(?: found)?",
                r"<K><SERVICE> (?:temporarily )?(?:invalid|unknown|not found|not exist|inactive|not available"
                r"|not supported"
                r"|not offered|not allowed)(?: (?:invalid|inactive|not available|not exist|anymore|account"
                r"|<SERVICE>))*",
                r"<K><SERVICE> cannot (?:found|ordered|purchased)",
                r"translationkey service",
            ),
        ),
        (
            # {"error": "Order not found"}, {"error": "Incorrect order ID"}
            Meaning.UNKNOWN_ORDER,
            (
                r"<K>(?:invalid|unknown|no) <OF>(?: found)?",
                r"<K><OF> (?:invalid|unknown|not found|not exist)(?: (?:account|user|access|permission)(?: .*)?)?",
                r"cannot find <OF>|could not find <OF>",
            ),
        ),
        (
            # `neworder.error.invalid_link`, `Bad Link`, `post not found`. "User not found" and "page not found" are not
            # here: the first may speak of the key's owner, the second of the API itself.
            Meaning.LINK,
            (
                r"<K>(?:invalid|unsupported|broken|private|no|missing|empty|unknown|inactive) <LINK>"
                r"(?: (?:format|address|link|username))?",
                r"<K><LINK> (?:format )?(?:invalid|unsupported|broken|private|empty|missing|required|unknown"
                r"|restricted|blacklisted|inactive|unavailable)(?: .*)?",
                r"<K><LINK> (?:not|cannot) (?:found|exist|supported|available|allowed|accessible|public|match"
                r"|accepted|reachable|recognized|empty|blank|null|opened|accessed|correct)(?: .*)?",
                r"<K><LINK> parameter (?:required|missing|empty|invalid)",
                r"<LINK> must (?:valid|start|contain|begin|link|public|post|profile)(?: .*)?",
                r"(?:please )?(?:enter|provide|use|input|insert|check|submit|send|add) (?:valid|full|proper"
                r"|public|correct) <LINK>",
                r"(?:instagram |tiktok |twitter )?(?:account|page|user profile) (?:private|not public|must public)",
                r"private (?:account|page)|invalid target",
                r"(?:instagram|tiktok|twitter|telegram|youtube|facebook) (?:user|account|page) not (?:found|exist)",
                r"translationkey link(?: .*)?",
            ),
        ),
        (
            # {"error": "Service ID is required"}, {"error": "Invalid action"}
            Meaning.PARAMETERS,
            (
                r"<PARAM>(?: parameter)? (?:required|missing|empty|not (?:set|provided|specified))(?: parameter)?",
                r"(?:missing|required|no) (?:required )?<PARAM>(?: parameter)?",
                r"(?:missing|required) (?:required )?parameter(?: missing)?(?: <PARAM>)*",
                r"(?:invalid|unknown|unsupported) action|action (?:invalid|unknown|not found|not supported|not exist)",
                r"translationkey (?:invalid )?<PARAM>",
                r"invalid (?:comment|hashtag|hashtags|keyword|keywords|usernames|runs|interval|phone"
                r"|answer number|expiry|delay|posts|media|min|max|old posts|groups|device|google keyword"
                r"|type traffic|referring link)(?: parameter)?",
                r"request (?:entity )?too (?:large|long|big)",
                r"(?:drip ?feed|drip feed) not (?:available|supported|allowed)(?: service)?",
            ),
        ),
    )
)

NO_SUCH_FORM: Final = listed(
    (
        r"(?:invalid|unknown|malformed) (?:request|parameter|parameters|method|command)",
        r"(?:multiple|batch|bulk)(?: \w+){0,3} (?:not supported|not allowed|unsupported|not available)",
        r"method not (?:supported|allowed|found)",
        r"not supported|not implemented|unsupported",
    )
)
"""Answers to a *question* that this server does not know its form. Too vague to prove anything of a purchase."""

_FEWER_QUESTIONS: Final = listed(
    (
        r"flood(?: (?:control|wait|protection|limit|error))*(?: (?:#|reached|above|wait|seconds?|secs?|s).*)?",
        r"api limit(?: (?:reached|above)(?: .*)?)?",
        r"(?:please )?(?:wait|try again|retry)(?: (?:after|least|another|again|next))* # (?:seconds?|secs?|s|minutes?"
        r"|mins?)(?: (?:before|between|again|retry|more).*)?",
    )
)
"""Answers to a *question* that there were too many. Said of a purchase they might be about the order or its link."""


def meaning_of(text: str) -> Meaning:
    """What an error text means; GENERIC for everything that is not listed."""
    reduced = canonical(text)
    if not reduced:
        return Meaning.GENERIC
    return next((meaning for meaning, pattern in _MEANINGS if pattern.fullmatch(reduced)), Meaning.GENERIC)


def wants_fewer_questions(text: str) -> bool:
    """Whether an answer to a whole question is a rate limit, although it would prove nothing of a purchase."""
    return _FEWER_QUESTIONS.fullmatch(canonical(text)) is not None


def names_no_form(text: str) -> bool:
    return NO_SUCH_FORM.fullmatch(canonical(text)) is not None
