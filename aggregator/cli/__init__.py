"""argv to commands: exit codes 0 (done), 1 (could not), 2 (asked wrongly); no traceback for a user's mistake."""
