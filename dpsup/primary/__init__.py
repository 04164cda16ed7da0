# SPDX-License-Identifier: BSD-3-Clause
"""The primary: the process that owns EAL, hugepages, ports and lanes, and runs the io cores."""
