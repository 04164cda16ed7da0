# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup report`: what an instance is, does and went through, as one HTML file for others to read.

`gather` collects, `page` writes, `charts` and `html` have the parts; all but `gather` are pure.
The page needs nothing but itself: no script, no font, no picture from elsewhere.
"""
