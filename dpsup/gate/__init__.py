# SPDX-License-Identifier: BSD-3-Clause
"""The process that clients other than the owner connect to: local users with a role, and keys."""
