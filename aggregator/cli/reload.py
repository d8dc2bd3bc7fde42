"""`aggregator reload`: a running daemon goes by its config file as it is now."""

from __future__ import annotations

from typing import Final

import click

from aggregator.cli.failures import Refused
from aggregator.cli.options import asks_daemon, with_daemon
from aggregator.cli.output import Page, emit_answer
from aggregator.cli.target import Asked
from aggregator.cli.words import clean, shown

_SIGNAL: Final = (
    "If this key is what changed, the daemon does not know it yet: send it SIGHUP (systemctl reload aggregator)."
)


@click.command()
@asks_daemon
def reload(asked: Asked, /) -> None:
    """Have the running daemon go by its config file as it is now: all of it, or nothing.

    The daemon reads the file with which it was started. Sending it SIGHUP does the same, and the log has the answer.
    """
    try:
        answer = with_daemon(asked, lambda client, _: client.post("/v1/reload"))
    except Refused as refused:
        if refused.status == 401:
            refused.args = (f"{refused}\n{_SIGNAL}",)
        raise
    if asked.as_json:
        emit_answer(answer.body, answer.document)
        return
    page, changes = Page(), answer.document["changes"]
    if not changes:
        page.line("the daemon goes by this config already")
    else:
        page.table(("setting", "what"), [(shown(one.get("path")), shown(one.get("how"))) for one in changes])
        page.line("in use")
    for warning in answer.document["warnings"]:
        page.line(clean(warning), style="yellow")
