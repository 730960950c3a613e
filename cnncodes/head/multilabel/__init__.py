"""Heads of several labels per image: a logistic regression for each label, on the same codes.

- `data`: the labels of a codes file, and how its images are split
- `newton`: many logistic regressions at once, on the same points
- `fit`: C, weights and thresholds of all labels
- `scores`: average precision and F1 of labels
- `train`: `train_labels`: split, fit, measure, write
"""
