"""What the product costs in time: `python -m benchmarks` measures the whole chain beside an engine without a proxy."""
