# SPDX-License-Identifier: BSD-3-Clause
"""The process that asks the backends of a load balancer whether they answer, and marks what does
not."""
