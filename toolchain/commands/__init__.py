"""The subcommands of `edgeqwen-compile` beside those of `cli`."""
