# SPDX-License-Identifier: BSD-3-Clause
"""What runs where: from a topology and a host to cores, queues, slots, lanes, memory. Pure."""
