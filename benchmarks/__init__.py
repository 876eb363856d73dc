"""Side-by-side benchmarks against other libraries; not part of the tests."""
