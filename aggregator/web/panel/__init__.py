"""The panel door: this daemon as a provider, for every panel and client library that speaks the panel protocol.

`door` takes requests in and turns whatever is raised into the protocol's one form of error; `selling`, `ordering` and
`numbers` hold the actions; `shapes` and `words` say how each of the two documents writes the answers. It decides
nothing that the first door does not decide: both call the same stages.
"""
