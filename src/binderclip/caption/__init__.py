"""Room `caption`: text out of pictures and vectors; what steers a language model while it writes."""
