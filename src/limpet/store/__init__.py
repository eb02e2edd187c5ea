# SPDX-License-Identifier: Apache-2.0
"""What has to outlive the daemon."""
