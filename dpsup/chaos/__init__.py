# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup chaos`: injects faults under load, and checks that every packet is accounted for."""
