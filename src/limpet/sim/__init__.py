# SPDX-License-Identifier: Apache-2.0
"""Many PoPs in one process, with virtual time and seeded faults: does a session ever break?"""
