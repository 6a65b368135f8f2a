"""What several methods share: checks, passes over the target, banks of features; no papers."""
