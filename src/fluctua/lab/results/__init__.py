"""What finished runs say: numbers, tables, figures, one page."""
