// What a chart of a training shows, and what one would like to see there.
const MEANINGS: Record<string, string> = {
  "Loss": "The terms, each times its coefficient. Losses of other methods or coefficients are on other scales.",
  "Terms of the loss, bare":
    "Before their coefficients. Invariance is the distance of the two views, and falls. Variance is 0 if each dimension has a standard deviation of 1 or more, and 1 if all have collapsed. Covariance says how far the dimensions repeat each other.",
  "Standard deviation of the embedding's dimensions": "Over the batch. The loss pushes each towards 1; near 0, all images look alike: a collapse.",
  "Standard deviation of the representation's dimensions": "Of the backbone's output, on fixed images. Near 0, all images look alike.",
  "Nearest neighbours":
    "Accuracy of the 20 nearest of at most 2,000 training images; step 0 is the network before its training. Higher is better. An evaluation `knn` has other images, and another number of neighbours.",
  "RankMe": "How many dimensions are used in effect, up to the width. It compares trainings of one width and recipe, and is no score.",
  "Learning rate": "It rises while the training warms up, and falls on a cosine.",
  "Images per second": "Over all workers; the two views of an image count once.",
  "representation/alpha_req": "How fast the spectrum of the representations falls: near 1 is considered good.",
  "representation/lidar": "How many dimensions tell images apart, beyond what augmentation changes.",
  "representation/nesum": "1 if the representations point in one direction, up to the width if in all alike.",
  "embedding/std_low_share": "The share of the embedding's dimensions with a standard deviation below 0.1; near 1, it has collapsed.",
  "train/gradient_norm": "Before it is clipped or scaled. A sudden rise comes before a divergence.",
};

/** A sentence or two about a chart; none for a metric that is not known. */
export function meaning(title: string): string | undefined {
  return MEANINGS[title];
}
