"""The catalogue of the hstockplus account. Decides ids, prices, stock and behaviours that demos and tests rely on.

Ids are stable for ever. A product's rate is meant per piece, unless the account's `product_rate_per` says otherwise.
"""

from __future__ import annotations

from .behaviour import Behaviour
from .catalogue import NumberBehaviour, Service, SmsProject

_AT_ONCE = Behaviour("complete", pending_s=2, run_s=3)
_BY_HAND = Behaviour("complete", pending_s=60, run_s=600, batch=2)
_MAIL = "Accounts-Email"
_SOCIAL = "Accounts-Social"
_RECOVERY = "{user}:{password}:{recovery}"
_PIPES = "{user}|{password}|{recovery}"
_DASHES = "{user}----{password}"

HSTOCK: tuple[Service, ...] = (
    Service(
        "1",
        "Instagram Followers",
        "Default",
        "Instagram",
        "0.50",
        100,
        10_000,
        True,
        False,
        stock=1_000_000,
        subcategory="Followers",
    ),
    Service(
        "2",
        "Gmail Account - USA",
        "Default",
        _MAIL,
        "0.25",
        1,
        50,
        behaviour=_AT_ONCE,
        stock=5_000,
        subcategory="Gmail",
        entity="product",
    ),
    Service(
        "3",
        "Outlook Account - aged, made to order",
        "Default",
        _MAIL,
        "0.40",
        1,
        20,
        behaviour=_BY_HAND,
        stock=200,
        subcategory="Outlook",
        entity="product",
        auto_delivery=False,
        account_format=_RECOVERY,
    ),
    Service(
        "4",
        "Facebook Account - 2FA",
        "Default",
        _SOCIAL,
        "1.20",
        1,
        10,
        behaviour=_AT_ONCE,
        stock=500,
        subcategory="Facebook",
        entity="product",
        account_format=_PIPES,
    ),
    Service(
        "5",
        "X Account - last ones",
        "Default",
        _SOCIAL,
        "0.15",
        1,
        10,
        behaviour=_AT_ONCE,
        stock=3,
        subcategory="X",
        entity="product",
        account_format=_DASHES,
    ),
    Service(
        "6",
        "Instagram Likes",
        "Default",
        "Instagram",
        "0.08",
        100,
        50_000,
        True,
        False,
        behaviour=Behaviour("mixed"),
        stock=1_000_000,
        subcategory="Likes",
    ),
    Service(
        "7",
        "Instagram Views",
        "Default",
        "Instagram",
        "0.03",
        100,
        100_000,
        False,
        False,
        behaviour=Behaviour("partial"),
        stock=5_000_000,
        subcategory="Views",
    ),
    Service(
        "8",
        "Hotmail Account - half delivered",
        "Default",
        _MAIL,
        "0.05",
        1,
        100,
        behaviour=Behaviour("partial", pending_s=2, run_s=10, delivered_percent=50),
        stock=1_000,
        subcategory="Hotmail",
        entity="product",
    ),
    Service(
        "9",
        "Yahoo Account - supplier gone",
        "Default",
        _MAIL,
        "0.10",
        1,
        20,
        behaviour=Behaviour("cancel"),
        stock=100,
        subcategory="Yahoo",
        entity="product",
        auto_delivery=False,
    ),
    Service(
        "10",
        "TikTok Followers",
        "Default",
        "TikTok",
        "1.10",
        100,
        10_000,
        True,
        False,
        stock=None,
        subcategory="Followers",
    ),
)

# The dial code as country and the phone without one are literal oddities of real answers too.
HSTOCK_PROJECTS: tuple[SmsProject, ...] = (
    SmsProject("65f0aa", "OpenAI / ChatGPT", "0.5000", "us", "United States", "+1202"),
    SmsProject("65f0aa", "OpenAI / ChatGPT", "0.6000", "gb", "United Kingdom", "+4474"),
    SmsProject("65f0bb", "Telegram", "0.8000", "us", "United States", "+1303", behaviour=NumberBehaviour("two_codes")),
    SmsProject("65f0bb", "Telegram", "0.3500", "+93", "Afghanistan", "70"),
    SmsProject("65f0cc", "WhatsApp", "0.7500", "gb", "United Kingdom", "+4475", behaviour=NumberBehaviour("expire")),
    SmsProject("65f0dd", "Google", "0.4500", "de", "Germany", "+4915", behaviour=NumberBehaviour("mixed")),
    SmsProject("65f0ee", "Instagram", "0.3000", "us", "United States", "+1404", stock=5),
    SmsProject("65f0ee", "Instagram", "0.3500", "us", "United States", "+1505"),
    SmsProject("65f0ff", "Discord", "0.2000", "de", "Germany", "+4916", stock=3),
    SmsProject("65f0dc", "Uber", "0.2500", "gb", "United Kingdom", "+4477", behaviour=NumberBehaviour("cancel")),
)
