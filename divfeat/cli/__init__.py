"""The command lines: flags to configurations, configurations to studies, outcomes to exit codes."""
