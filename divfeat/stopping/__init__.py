"""Early stopping judged on recorded learning curves; docs/early-stopping.md says what came out."""
