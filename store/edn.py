"""The door to EDN: the value model, the reader and the writer under one name."""

from store.edn_model import (
    Char,
    Keyword,
    List,
    Map,
    Set,
    Symbol,
    Tagged,
    Vector,
    meta_of,
    strict_equal,
    strict_key,
    with_meta,
)
from store.edn_read import DEPTH_LIMIT, DIGIT_LIMIT, Node, read_all, read_edn, read_edn_file, read_node, read_nodes
from store.edn_write import node_of, show_form, write_edn

__all__ = [
    "DEPTH_LIMIT",
    "DIGIT_LIMIT",
    "Char",
    "Keyword",
    "List",
    "Map",
    "Node",
    "Set",
    "Symbol",
    "Tagged",
    "Vector",
    "meta_of",
    "node_of",
    "read_all",
    "read_edn",
    "read_edn_file",
    "read_node",
    "read_nodes",
    "show_form",
    "strict_equal",
    "strict_key",
    "with_meta",
    "write_edn",
]
