# SPDX-License-Identifier: BSD-3-Clause
"""The topology file: from its text to a model, or to problems with file and line. Pure.

`load` reads a file through the `Host` that it is given; `model` holds the tables and their keys,
`values` the readers of single values, `rules` what values say about each other, `lines` where the
file says something, `problems` how a fault is put in words.
"""
