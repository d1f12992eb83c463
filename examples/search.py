"""Search what `clipfast embed` wrote, with words or with an image.

    clipfast embed photos/ -o embeddings --model ViT-B/32
    python examples/search.py embeddings ViT-B/32 "a dog on a beach" -k 5
    python examples/search.py embeddings ViT-B/32 query.jpg

Prints cosine, row and path of the best images, best first.
"""

import argparse
from pathlib import Path

import clipfast

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("embeddings", help="the output of clipfast embed")
parser.add_argument("model", help="the model it was made with")
parser.add_argument("query", help="a text, or the path of an image")
parser.add_argument("-k", type=int, default=10, help="results")
arguments = parser.parse_args()

gallery = clipfast.bulk.read(arguments.embeddings)  # memory-mapped, shard by shard
model = clipfast.load(arguments.model, precision=gallery.job.model["precision"])
if model.fingerprint != gallery.job.model["weights"]:
    raise SystemExit(f"{arguments.embeddings} was made with {gallery.job.model['name']}")

if Path(arguments.query).is_file():
    query = model.encode_images([arguments.query])
else:
    query = model.encode_texts([arguments.query])

scores, rows = gallery.top_k(query, min(arguments.k, len(gallery)))
for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
    print(f"{score:.4f}  {row:>9}  {gallery.metadata(row)['image_path']}")
