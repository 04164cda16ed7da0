# SPDX-License-Identifier: BSD-3-Clause
"""Can this machine run this topology? What needs the host to judge; nothing is touched."""
