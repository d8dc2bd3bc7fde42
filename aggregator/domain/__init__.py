"""The rules: what an order may become, what an offer costs, when a drop is a drop.

Standard library only. Nothing here awaits, opens a file or asks the time: facts and the present instant come in,
decisions and events go out.
"""
