"""Data in and out: tables (CSV, JSON, NDJSON, EDN, Parquet) with an inferred schema, and the portable dump."""
