"""Zero-shot classification of image files: python examples/zero_shot.py MODEL LABEL,LABEL,... IMAGE..."""

import sys

import clipfast

source, labels, *images = sys.argv[1:]
model = clipfast.load(source)
names = labels.split(",")
for image, row in zip(images, model.classify(images, names), strict=True):
    best = int(row.argmax())
    print(f"{image}: {names[best]} ({row[best]:.1%})")
