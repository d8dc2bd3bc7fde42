"""The stages: each claims committed rows, makes its call, and commits what came of it.

No stage knows another. A stage's output is a committed state, the next one's input a query for it; a wake-up only makes
the next one look sooner.
"""
