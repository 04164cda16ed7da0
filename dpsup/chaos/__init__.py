# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup chaos`: faults on purpose, under load, and whether the books balance afterwards."""
