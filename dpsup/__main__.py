# SPDX-License-Identifier: BSD-3-Clause
from dpsup.cli import main

main()
