"""The catalogues of the two panel_v2 accounts. Decides ids, prices and behaviours that demos and tests rely on.

Ids are stable for ever: add rows, never renumber. Between them the rows cover every service type that panels know.
"""

from __future__ import annotations

from .behaviour import Behaviour
from .catalogue import Service

_MIXED = Behaviour("mixed")

# id, name, type, category, rate, min, max, refill, cancel
SMMPLUS: tuple[Service, ...] = (
    Service("1", "Instagram Followers [R30]", "Default", "Instagram", "0.90", 50, 10_000, True, True),
    Service("2", "Instagram Comments", "Custom Comments", "Instagram", "8", 10, 1_500, False, True),
    Service("3", "Instagram Starter Package", "Package", "Instagram", "1.50", 1, 1),
    Service("4", "Google Ranking", "SEO", "Website", "12.00", 100, 5_000),
    Service("5", "Instagram Comments Package", "Custom Comments Package", "Instagram", "2.25", 1, 1),
    Service("6", "Instagram Mentions", "Mentions", "Instagram", "3.00", 20, 20_000, False, True),
    Service("7", "Instagram Mentions + Hashtags", "Mentions with Hashtags", "Instagram", "3.10", 20, 20_000),
    Service("8", "Instagram Mentions by List", "Mentions Custom List", "Instagram", "3.20", 2, 20_000),
    Service("9", "Instagram Mentions by Hashtag", "Mentions Hashtag", "Instagram", "3.30", 20, 20_000),
    Service("10", "Instagram Mentions of Followers", "Mentions User Followers", "Instagram", "3.40", 20, 20_000),
    Service("11", "Instagram Mentions of Likers", "Mentions Media Likers", "Instagram", "3.50", 20, 20_000),
    Service("12", "YouTube Comment Likes", "Comment Likes", "YouTube", "1.20", 10, 5_000, False, True),
    Service("13", "YouTube Comment Replies", "Comment Replies", "YouTube", "9.00", 2, 500),
    Service("14", "Telegram Poll Votes", "Poll", "Telegram", "0.75", 10, 50_000),
    Service("15", "Facebook Group Invites", "Invites from Groups", "Facebook", "4.00", 50, 5_000),
    Service("16", "Instagram Auto Likes", "Subscriptions", "Instagram", "0.60", 10, 5_000, False, True),
    Service("17", "Website Traffic", "Web Traffic", "Website", "0.35", 100, 1_000_000),
    Service(
        "18",
        "Instagram Likes [Refill 30 Days]",
        "Default",
        "Instagram",
        "0.20",
        20,
        50_000,
        True,
        True,
        Behaviour("drop"),
    ),
    Service(
        "19",
        "TikTok Views [No Refill]",
        "Default",
        "TikTok",
        "0.02",
        100,
        1_000_000,
        False,
        False,
        Behaviour("partial"),
    ),
    Service("20", "YouTube Subscribers", "Default", "YouTube", "15.00", 50, 2_000, False, False, Behaviour("cancel")),
    Service("21", "Telegram Members [AR30]", "Default", "Telegram", "1.10", 100, 20_000, True, True, _MIXED),
    Service("22", "X Followers", "Default", "X", "2.40", 50, 5_000, False, False, Behaviour("fail")),
    Service("23", "Spotify Plays", "Default", "Spotify", "0.40", 500, 100_000, False, True, Behaviour("stuck")),
    Service(
        "24",
        "Instagram Followers Slow [365 days]",
        "Default",
        "Instagram",
        "1.80",
        50,
        10_000,
        True,
        True,
        Behaviour("complete", pending_s=600, run_s=7_200),
        refill_days=365,
    ),
)

SMMCHEAP: tuple[Service, ...] = (
    Service("1", "Followers IG \U0001d411\U0001d7d1\U0001d7ce", "Default", "Instagram", "0.62", 50, 5_000, True, True),
    Service("2", "Likes IG flash sale", "Default", "Instagram", "0.10", 20, 1_000, False, True, stock=1_500),
    Service("3", "Comments IG", "custom comments", "Instagram", "5.50", 5, 500, False, True),
    Service("4", "Views TT", "Default", "TikTok", "0.01", 100, 500_000, False, False, _MIXED),
    Service("5", "Subscribers YT", "Default", "YouTube", "9.80", 100, 1_000, False, True, Behaviour("partial")),
    Service("6", "Members TG R30", "Default", "Telegram", "0.70", 100, 10_000, True, True, Behaviour("drop")),
    Service(
        "7",
        "Reactions IG R30",
        "Default",
        "Instagram",
        "0.30",
        50,
        5_000,
        True,
        False,
        Behaviour("drop", refill_outcome="reject"),
    ),
)
