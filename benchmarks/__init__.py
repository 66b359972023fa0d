"""Runnable comparisons with peers. Each prints a table of ratios measured in one run."""
