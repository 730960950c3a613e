"""Multinomial logistic regression by way of the Gram matrix.

- `gram`: the method, and `GramLogisticRegression`, the estimator on arrays
- `solve`: the fit by scikit-learn in the rotated space, and the choice of C by cross-validation
- `fit`: the same on the rows of a codes file, in blocks
"""
