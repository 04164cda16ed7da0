# SPDX-License-Identifier: BSD-3-Clause
"""ZeroMQ: its sockets, and the messages on them."""
