"""Images with a mask or with boxes each, for segmentation and detection."""
