"""Side-by-side measurements: ours and a peer do the same work in turn, and what is reported is the paired ratio."""
