# SPDX-License-Identifier: BSD-3-Clause
"""This machine, and processes on it."""
