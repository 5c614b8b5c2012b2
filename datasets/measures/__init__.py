"""What is measured of values as they pass: moments, extremes, percentiles."""
