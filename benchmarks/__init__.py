"""What watching costs, measured: see docs/benchmarks.md."""
