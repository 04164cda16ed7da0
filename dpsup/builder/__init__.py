# SPDX-License-Identifier: BSD-3-Clause
"""The builder: the process that holds live tables, and alone writes them. It may die at any moment.

What a table says is kept in a log of batches (log.py), and laid out for the workers in a file that
they map read-only (region.py). A batch is in the log before any worker can see it: what the next
builder finds there, it carries out.
"""
