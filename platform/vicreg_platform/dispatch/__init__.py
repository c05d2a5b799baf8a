"""The dispatcher: moves jobs between the database and the cluster."""
