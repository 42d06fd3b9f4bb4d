"""Where images come from: folders, archives, shards, tables, buckets; which file belongs to which class."""
