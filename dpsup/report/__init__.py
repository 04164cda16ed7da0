# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup report`: an instance's configuration, rates and history, as one HTML file.

`gather` collects, `page` writes, `charts` and `html` have the parts; all but `gather` are pure.
The page needs no other file: no script, no font, no picture.
"""
