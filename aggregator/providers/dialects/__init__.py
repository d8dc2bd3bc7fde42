"""The dialects there are, by the name that config `dialect` gives them. A new one adds its line here; see ADDING.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aggregator.providers.contract import Dialect
from aggregator.providers.dialects.hstockplus import HStockPlus
from aggregator.providers.dialects.panel_v2 import PanelV2

DIALECTS: Final[Mapping[str, type[Dialect]]] = {dialect.name: dialect for dialect in (PanelV2, HStockPlus)}
