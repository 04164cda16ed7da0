# SPDX-License-Identifier: BSD-3-Clause
"""A running instance, seen from outside: its runtime directory, client, documents and records."""
