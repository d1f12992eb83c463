"""Zero-shot classification of image files.

    python examples/zero_shot.py ViT-B/32 "a dog,a cat" first.jpg second.jpg

Prints each image's most probable label.
"""

import argparse

import clipfast

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help='what clipfast.load takes, such as ViT-B/32 or "demo"')
parser.add_argument("labels", help="what an image may show, separated by commas")
parser.add_argument("images", nargs="+", help="image files")
arguments = parser.parse_args()

model = clipfast.load(arguments.model)
labels = arguments.labels.split(",")
for image, row in zip(arguments.images, model.classify(arguments.images, labels), strict=True):
    best = int(row.argmax())
    print(f"{image}: {labels[best]} ({row[best]:.1%})")
