"""The memory: all SQL, for SQLite and PostgreSQL alike.

Functions here take a synchronous `Connection` and run inside `Database.read` or `Database.write`; they decide nothing
about orders, they load, claim and save.
"""
