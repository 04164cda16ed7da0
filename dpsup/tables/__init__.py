# SPDX-License-Identifier: BSD-3-Clause
"""Live tables as text: files, operations, differences. Pure."""
