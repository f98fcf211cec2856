"""Room `dense`: where in a picture a text is: segmentation by words, anomaly maps."""
