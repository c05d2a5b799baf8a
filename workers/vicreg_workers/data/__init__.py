"""What ``vicreg data`` runs: reports what images are, and packs them into shards."""
