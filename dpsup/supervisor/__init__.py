# SPDX-License-Identifier: BSD-3-Clause
"""The supervisor: policy, state, bus, restarts. No EAL, no packet; it may crash alone.

Pure, with the time as an argument: `fsm`, `policy`, `steering`, `autoscale`, `judge`, `notices`,
`histograms`.
"""
