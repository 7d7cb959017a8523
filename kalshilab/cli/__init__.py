"""The `kalshilab` command: one module per subcommand."""
