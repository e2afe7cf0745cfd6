"""Bytes, datoms, facts in and out; knows nothing of queries. Its modules are imported one by one."""
