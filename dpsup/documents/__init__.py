# SPDX-License-Identifier: BSD-3-Clause
"""What passes between dpsup's processes and out of its commands, typed. The text of each field is
its line in docs/reference."""
