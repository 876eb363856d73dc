"""Side-by-side measurements with peers, in one run; never part of the tests."""
