"""The peers: each module has a class `Peer` with `load`, `rows`, `columnar`, `figures`, `close`.

One whose database is in another process has `timed_rows` in place of `rows` and `columnar`, with that process's clock, and
`peak_mb`. Tasks: the methods that the workload's `NEEDS` names, or `task`. `LeftOut` is raised for what a peer leaves out.
"""
