"""The demo model: a tiny CLIP of drawn shapes and handwritten digits, how it is trained, and what it shows."""
