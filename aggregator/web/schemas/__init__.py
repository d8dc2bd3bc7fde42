"""The shapes of answers and events, as pydantic models: what the API's own description shows.

They describe and never render: answers are made as plain dictionaries (domain.documents, web.rendering), because
building models would cost what an order may not. The tests hold every answer against them, so neither can change alone.
"""
