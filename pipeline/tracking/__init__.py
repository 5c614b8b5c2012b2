"""Where the numbers of a run go: MLflow, the run's own record, Ray's gauges."""
