# SPDX-License-Identifier: BSD-3-Clause
"""Can this machine run this topology? These checks need the host; they change nothing."""
