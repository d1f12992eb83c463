"""clipfast against its peers, on one machine in one run.

make bench                                           every cell, into benchmarks/results/<machine>.json
python -m pytest benchmarks -k "ViT-B-32 and bf16" --bench-save    some cells, merged into that file
python -m benchmarks.report                          tables and a chart from the files
"""
