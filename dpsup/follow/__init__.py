# SPDX-License-Identifier: BSD-3-Clause
"""The process that keeps a group's tables as the kernel's routes and neighbours are."""
