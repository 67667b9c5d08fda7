"""What pair comparisons say together: tables of wins, beliefs and diagnostics."""
