"""The layouts that images are stored in: folders, tar shards, parquet files."""
