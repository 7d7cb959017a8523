"""The `kalshilab` command: one module per subcommand, `main` for the parser and the exit codes."""
