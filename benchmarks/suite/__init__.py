"""Benchmarks in asv's form; CONTRIBUTING.md says how to run them."""
