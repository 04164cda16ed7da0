# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup try`: a plugin and packets, without an instance. The program that runs them is in
workers/try."""
