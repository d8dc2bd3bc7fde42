"""The doors: HTTP in front of flow and storage.

Decides who may knock, what a request says and how an answer looks; never buys and never waits for a provider, except
when an admin asks for a catalogue right now.
"""
