"""The normalisation of every image: the mean and the standard deviation of ImageNet's channels."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
