"""The papers' claims, measured again at a size that a laptop bears; the same files describe the papers' own size.

python -m benchmarks.claims texts                          # writes the sample of texts, runs/claims/texts.txt
python -m benchmarks.claims run benchmarks/claims/etd.yaml # every training; again, or in a second process: the rest
python -m benchmarks.claims table                          # what was claimed, what was measured, and the verdict
python -m benchmarks.claims plan benchmarks/claims/etd.yaml --scale full   # what the paper's own size would take
"""
