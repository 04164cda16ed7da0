# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup bench`: what this dpsup does on this machine, beside what others do.

Pure: model, stats, compare, rows, table. Effects: host, child, probe, meter, rigs, the cases, run.
"""
