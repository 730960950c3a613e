"""Multinomial logistic regression by way of the Gram matrix.

- `gram`: the method, from the Gram matrix to the weights (`solve_gram`)
- `solve`: the fit by scikit-learn in the rotated space, and the choice of C by cross-validation
- `newton`: the fit on weighted images of doubtful labels, and the last digits of any
- `start`: weights of an earlier head, from which the fit starts
- `estimator`: `GramLogisticRegression`, the estimator on arrays
- `fit`: the same on the rows of a codes file, in blocks
"""
