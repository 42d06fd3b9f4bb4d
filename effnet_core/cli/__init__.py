"""The command line: commands, terminal, doctor."""
