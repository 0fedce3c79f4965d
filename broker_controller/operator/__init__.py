"""What a running controller sees, on a terminal. It asks by HTTP, as anybody could, and shows; it decides nothing."""
