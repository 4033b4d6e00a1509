"""Measurements of bertcompress against other ways to do the same; results are JSON with machine and commit."""
