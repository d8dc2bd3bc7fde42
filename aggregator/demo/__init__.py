"""The demo: sandbox, daemon and webhook listener on one machine, with a few orders that show the main job.

It uses the daemon as a stranger would: its command line, its HTTP API, its webhooks. Nothing in the program knows it.
"""
