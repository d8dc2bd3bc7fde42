"""How long the words of providers may be: what their columns hold.

PostgreSQL refuses a longer one with everything that is written beside it, and SQLite takes any; so each is held against
its limit where it comes in, and both databases behave alike.
"""

from __future__ import annotations

from typing import Final

MAX_ID: Final = 128
"""Of a provider's order, service, project or refill."""
MAX_CURRENCY: Final = 8
MAX_TYPE: Final = 100
MAX_COUNTRY: Final = 32
MAX_PHONE: Final = 64
