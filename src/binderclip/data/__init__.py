"""Sources of images, video, sound and text, and the embeddings made of them."""
