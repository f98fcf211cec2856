"""Parts that several objectives use: token dropping, text shortening, averages, queues, heads, masking, captions."""
