"""Other programs' models and files: reading them, writing them. Part 3 onwards."""
