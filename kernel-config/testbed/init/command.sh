# SPDX-License-Identifier: LGPL-2.1-or-later
# Role "command": runs /share/command. Role of `testbed boot`.
sh /share/command
