# SPDX-License-Identifier: BSD-3-Clause
"""This machine, and the processes on it."""
