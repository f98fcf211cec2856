"""Room `video`: clips to embeddings: poolers of frame embeddings, re-ranking by frames, and the video tools."""
