"""clipfast: the fastest exact way from images and texts to CLIP embeddings."""
