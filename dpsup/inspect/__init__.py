# SPDX-License-Identifier: BSD-3-Clause
"""What an operator asks of packets and workers in flight: capture and perf."""
