"""Figures, tables and the report: reads the ledger, never MLflow."""
