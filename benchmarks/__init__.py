"""Speed, memory and quality, measured side by side with a peer and recorded as JSON."""
