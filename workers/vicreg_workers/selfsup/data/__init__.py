"""Images, and the batches made of them."""
