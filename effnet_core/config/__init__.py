"""Every setting, the recipes, and how they are read."""
