"""Joins over a movie database with Zipf skew: 2.4 million datoms, ten questions."""
