# SPDX-License-Identifier: BSD-3-Clause
"""What users see: text in columns, drawings; pure but `terminal`, `top` and `watch`."""
