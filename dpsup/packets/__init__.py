# SPDX-License-Identifier: BSD-3-Clause
"""Packets as bytes: capture files, filters, and a packet in one line."""
