"""Metrics of a head or an app on images it was not trained on, and learning curves.

- `evaluate`: measures a model on a codes file or on images
- `model_session`: the model itself, run on codes or on pixels
- `selection`: the images that are used, and notes on those left out
- `metrics`: accuracy, F1, calibration and the confusion matrix
- `unknown`: how well images of none of the classes are recognised
- `evaluation`: the result, as dataclasses and as JSON
- `multilabel`: the same for several labels per image
- `report`: the result as an HTML page (extra ``report``)
- `page`: templates and pictures of HTML pages
- `charts`: figures of learning curve, reliability diagram and confusion matrix
- `learning_curve`: accuracy against the number of training images per class
- `curve_plan`: the training and test images of each of its points
- `curve`: a learning curve and its JSON file
"""
