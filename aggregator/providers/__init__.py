"""Dialects of the panel protocol, and the gateway that speaks them.

A dialect translates between our types and a provider's form fields and replies; it opens no socket and no database.
"""
