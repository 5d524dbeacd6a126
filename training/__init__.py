"""Models, from text and arrays to probabilities: knows nothing of pipelines, trackers or components."""
