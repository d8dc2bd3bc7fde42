"""Aggregator: one API in front of many providers' panels.

Rules know nothing, dialects translate, storage remembers, flow moves rows one stage on, web and schedule knock on the
door, the daemon builds the house.
"""

__version__ = "0.1.0"
