"""A softmax layer trained by mini-batch stochastic gradient descent.

- `softmax`: `SGDSoftmax`, the estimator on arrays
- `descent`: one gradient step, momentum or Adam, and the learning rate's schedule
- `fit`: the same on the rows of a codes file, in blocks
"""
