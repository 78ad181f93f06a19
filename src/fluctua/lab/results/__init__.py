"""Results of finished runs: numbers, tables, figures, one page."""
