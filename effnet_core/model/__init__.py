"""The network family: tables, scaling rules, layers and cells."""
