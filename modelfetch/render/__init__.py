"""What a person or a program sees: tables, a bar, log lines, JSON."""
