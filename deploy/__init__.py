"""How the processes run together on one machine, and the `hone` command."""
