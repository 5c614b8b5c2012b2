"""What is measured of values as they pass: moments, extremes, percentiles; parts are merged in any order."""
