"""The peers: each module has a class `Peer` with `load`, `rows`, `columnar`, `figures`, `close`."""
